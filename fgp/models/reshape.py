"""Give the layers of a dense network the shapes of a pruned one."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fgp.errors import FgpError

RESIZABLE = (_ConvNd, _NormBase, nn.Linear)


def reshape(model: nn.Module, tensors: Mapping[str, torch.Tensor], groups: Mapping[str, int]) -> None:
    """Shrink `model` in place so that `model.load_state_dict(tensors)` fits.

    Convolutions, batch (and instance) norms and linear layers get new, uninitialised parameters and buffers of the shapes in
    `tensors` where these differ, and the matching channel counts in their attributes.

    Args:
        model: the dense network.
        tensors: the pruned network's state, keys as in `model.state_dict()`.
        groups: `groups` of every convolution of the pruned network where it is not 1.

    Raises:
        FgpError: keys missing or unexpected, or a shape that no pruning of the network gives; the model is then half changed.
    """
    state = model.state_dict()
    missing, unexpected = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or unexpected:
        parts = [
            f"{len(keys)} {word} ({keys[0]}, ...)" for word, keys in (("missing", missing), ("unexpected", unexpected)) if keys
        ]
        raise FgpError(f"tensors {' and '.join(parts)}: a checkpoint of another network")
    for name, module in model.named_modules():
        for key, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            path = f"{name}.{key}" if name else key
            if path in tensors and tensors[path].shape != old.shape:
                _check(path, module, old.shape, tensors[path].shape)
                _replace(module, key, old, tensors[path].shape)
        if isinstance(module, RESIZABLE):
            _set_channels(name, module, groups.get(name, 1))


def _check(path: str, module: nn.Module, old: torch.Size, new: torch.Size) -> None:
    same_kernel = len(old) == len(new) and old[2:] == new[2:]
    if not (isinstance(module, RESIZABLE) and same_kernel and all(0 < b <= a for a, b in zip(old, new, strict=True))):
        raise FgpError(
            f"tensor {path} has shape {tuple(new)} where the network has {tuple(old)}: a checkpoint of another network"
        )


def _replace(module: nn.Module, key: str, old: torch.Tensor, shape: torch.Size) -> None:
    new = old.new_empty(shape)
    setattr(module, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _set_channels(name: str, module: nn.Module, groups: int) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
        fits = module.bias is None or len(module.bias) == module.out_features
    elif isinstance(module, _NormBase):
        sizes = {len(x) for x in (module.weight, module.bias, module.running_mean, module.running_var) if x is not None}
        fits = len(sizes) <= 1
        module.num_features = min(sizes, default=module.num_features)
    else:
        module.groups = groups
        first, second = module.weight.shape[:2]
        transposed = isinstance(module, _ConvTransposeNd)
        module.out_channels, module.in_channels = (second * groups, first) if transposed else (first, second * groups)
        divides = module.out_channels % groups == 0 and module.in_channels % groups == 0
        fits = divides and (module.bias is None or len(module.bias) == module.out_channels)
    if not fits:
        raise FgpError(f"the tensors of layer {name} contradict each other in their channel counts")
