"""Multiply-adds and parameters of a network, counted without computing anything."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgp.errors import FgpError
from fgp.shapes import WithoutNorms

_SAME = {F.batch_norm, F.relu, F.dropout, F.dropout2d, torch.sigmoid, Tensor.flip}
_POOLINGS = {F.max_pool2d, F.max_pool2d_with_indices, F.max_unpool2d, F.adaptive_avg_pool2d}
_BY_CHANNEL = {*_POOLINGS, F.interpolate, Tensor.add, Tensor.mul}
_NO_ARITHMETIC = {Tensor.shape.__get__, Tensor.dim, Tensor.size, Tensor.flatten, Tensor.__getitem__}


@dataclass(frozen=True)
class Cost:
    """Attributes: `macs`, multiply-adds of one forward in eval mode; `params`, all parameters, auxiliary heads included."""

    macs: int
    params: int


def count(model: nn.Module, example_input: torch.Tensor) -> Cost:
    """Count the cost of `model(example_input)`; one multiply-add is one MAC.

    Counted is what torch.utils.flop_counter knows, convolutions and matrix products; BN, activations and pooling are free. An
    auxiliary head that eval mode skips costs parameters but no MACs. The model is left as it is. A forward of common layers is
    followed by its shapes; any other runs on the meta device, without arithmetic, which imports a second's worth of torch; where
    an operation has no meta kernel, on zeros on the model's own device.

    Args:
        model: any network that takes one tensor.
        example_input: `(N, 3, H, W)` on any device, meta too; only its shape and type matter. MACs are those of the whole batch.

    Raises:
        FgpError: the network cannot take an input of that shape.
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        return Cost(_macs_of_layers(model, example_input.shape), params)
    except (_UnknownFunctionError, RuntimeError, TypeError, ValueError):
        pass
    try:
        macs = _macs(_meta_copy(model), torch.empty_like(example_input, device="meta"))
    except (RuntimeError, ValueError):
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        try:
            macs = _macs(copy.deepcopy(model), torch.zeros_like(example_input, device=device))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(str(size) for size in example_input.shape)
            raise FgpError(f"{type(model).__name__} fails on an input of {shape}: {str(error).splitlines()[0]}") from error
    return Cost(macs, params)


def example(input_size: tuple[int, int, int], device: str | torch.device = "meta") -> torch.Tensor:
    """Return zeros of shape `(1, *input_size)`, by default on the meta device, where they take no memory."""
    return torch.zeros(1, *input_size, device=device)


class _UnknownFunctionError(Exception):
    """The forward pass calls a function that `_Layers` does not know."""


class _Layers(TorchFunctionMode):
    """Runs a network for the shapes of its features and adds up the MACs of convolutions and linear layers.

    All channels of a feature map (N, C, H, W) are one and the same map of zeros, and weights are looked at for their shape only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.conv2d:
            return self._convolved(*args, **kwargs)
        if func is F.linear:
            return self._multiplied(*args, **kwargs)
        if func is torch.cat:
            return _joined(*args, **kwargs)
        if func in _SAME:
            return args[0]
        if func in _BY_CHANNEL:
            return _by_channel(func, args, kwargs)
        if func in _NO_ARITHMETIC:
            return func(*args, **kwargs)
        raise _UnknownFunctionError(func)

    def _convolved(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: int | tuple = 1, padding: int | tuple | str = 0, dilation: int | tuple = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        if input.dim() != 4 or input.shape[1] != weight.shape[1] * groups:
            raise _UnknownFunctionError(F.conv2d)
        one = F.conv2d(input[:1, :1], input.new_zeros(1, 1, *weight.shape[2:]), None, stride, padding, dilation)
        features = one.expand(len(input), len(weight), -1, -1)
        self.macs += features.numel() * weight[0].numel()
        return features

    def _multiplied(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if input.shape[-1] != weight.shape[1]:
            raise _UnknownFunctionError(F.linear)
        self.macs += input.numel() * len(weight)
        return input[..., :1].expand(*input.shape[:-1], len(weight))


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first, *others = tensors
    if dim != 1 or any(x.shape[2:] != first.shape[2:] or len(x) != len(first) for x in others):
        raise _UnknownFunctionError(torch.cat)
    return first[:, :1].expand(-1, sum(x.shape[1] for x in tensors), *first.shape[2:])


def _by_channel(func: Callable, args: tuple, kwargs: dict) -> Tensor | tuple[Tensor, ...]:
    """Call `func` with one channel of every map; it does the same to all of them."""
    maps = [x for x in args if isinstance(x, Tensor)]
    if any(x.dim() != 4 for x in maps):
        raise _UnknownFunctionError(func)
    leading = map(max, zip(*(x.shape[:2] for x in maps), strict=True))
    result = func(*(x[:1, :1] if isinstance(x, Tensor) else x for x in args), **kwargs)
    sizes = *leading, -1, -1
    return tuple(x.expand(sizes) for x in result) if isinstance(result, tuple) else result.expand(sizes)


def _macs_of_layers(model: nn.Module, shape: torch.Size) -> int:
    copied = copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())}).eval()
    images = torch.zeros(()).expand(shape)
    with torch.no_grad(), _Layers() as layers:
        copied(images)
    return layers.macs


def _macs(model: nn.Module, images: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    with torch.no_grad(), WithoutNorms(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def _meta_copy(model: nn.Module) -> nn.Module:
    """Copy the model but not its tensors: deepcopy finds meta tensors in their place."""
    memo = {id(x): nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad) for x in model.parameters()}
    memo |= {id(x): torch.empty_like(x, device="meta") for x in model.buffers()}
    return copy.deepcopy(model, memo)
