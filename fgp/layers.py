"""The convolutions of a network, and the batch normalisation and the ReLU behind each."""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from fgp.errors import FgpError

_RELUS = {**dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), F.relu), F.relu6: F.relu6}


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return every `Conv2d` of `model` by name, in the order of `model.named_modules()`.

    Raises:
        FgpError: there is none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise FgpError(f"{type(model).__name__}: has no Conv2d layer; fgp scores and prunes convolutions")
    return found


class Trail:
    """Follows tensors from the layer that made them to the next operation, within one forward pass.

    A tensor is recognised by identity and only as long as nothing has written into it. Each is followed once: to the first
    operation that asks for it.
    """

    def __init__(self) -> None:
        self._marked: dict[int, tuple[Tensor, int, str]] = {}

    def mark(self, tensor: Tensor, layer: str) -> None:
        """Remember that `tensor` carries the channels of `layer`."""
        self._marked[id(tensor)] = (tensor, tensor._version, layer)

    def follow(self, tensor: object) -> str | None:
        """Return the layer whose channels `tensor` carries, None if it is not marked, and forget the mark."""
        marked, version, layer = self._marked.pop(id(tensor), (None, None, None))
        return layer if marked is not None and marked._version == version else None


class WatchReLU(TorchFunctionMode):
    """Reports every ReLU or ReLU6, module or function, in place or not, that takes a tensor on the trail."""

    def __init__(self, trail: Trail, report: Callable[[str, Callable[[Tensor], Tensor], Tensor], object]) -> None:
        """`report` gets the layer, a function that does what the ReLU does, and its result."""
        super().__init__()
        self._trail, self._report = trail, report

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        relu = _relu(func, kwargs)
        layer = self._trail.follow(args[0] if args else kwargs["input"]) if relu else None
        result = func(*args, **kwargs)
        if layer:
            self._report(layer, relu, result)
        return result


def _relu(func: Callable, kwargs: dict) -> Callable[[Tensor], Tensor] | None:
    """Return what a call computes if it is a ReLU; `nn.ReLU6` calls hardtanh, which torch hands on with its bounds by name."""
    if func is F.hardtanh and kwargs["min_val"] == 0:
        return partial(F.hardtanh, min_val=0.0, max_val=kwargs["max_val"])
    return _RELUS.get(func)


@torch.inference_mode(False)
def norms_after(model: nn.Module, images: Tensor) -> dict[str, str | None]:
    """Return the batch normalisation that each convolution feeds: {convolution: its name, None if the output goes elsewhere}.

    Found by the tensors handed over in a forward pass, so the order of definition does not matter. A copy of the network runs, in
    training mode so that auxiliary heads run too; the network itself and torch's random state stay as they are. A convolution
    that is not called even then has None.

    Args:
        model: the network.
        images: (N, C, H, W), one at least; only the first is used.
    """
    trail, found = Trail(), dict.fromkeys(convolutions(model))

    def before_norm(norm: str, tensor: Tensor) -> None:
        if layer := trail.follow(tensor):
            found[layer] = norm

    running = copy.deepcopy(model).train()
    for name, module in running.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output, name=name: trail.mark(output, name))
        elif isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda _, args, name=name: before_norm(name, args[0]))
    with torch.no_grad(), torch.random.fork_rng([images.device] if images.is_cuda else []):
        running(images[:1].repeat(2, 1, 1, 1))
    return found
