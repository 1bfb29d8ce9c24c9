"""Checking that a pruned network computes what the dense one computes with zeros in place of the removed channels."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fgp import coupling
from fgp.errors import FgpError

_SIDE = 64
_TOLERANCE = 1e-6


def check(dense: nn.Module, pruned: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> None:
    """Compare the two networks in eval mode, in float64, on one random image; check that auxiliary heads still run.

    Args:
        dense: the network before.
        pruned: the network after.
        masks: {layer: input channels that it no longer has}.
        example: tensor (N, C, H, W) of the network's input shape, possibly on the meta device. The image is 64 x 64 where that is
            smaller and the network takes it.

    Raises:
        FgpError: the pruned network does not run, or its output differs.
    """
    expected, image = _first_that_runs(_masked(dense, masks), example)
    try:
        found = _run(_double(pruned), image)
        shell = coupling.skeleton(pruned)
        coupling.set_branches(shell)
        _run(shell, image.to("meta", example.dtype))
    except Exception as error:
        raise FgpError(f"{_REFUSED}: the pruned network does not run ({type(error).__name__}: {error})") from error
    for want, have in zip(expected, found, strict=True):
        if want.shape != have.shape:
            raise FgpError(f"{_REFUSED}: the output's shape changes from {tuple(want.shape)} to {tuple(have.shape)}")
        scale = want.nan_to_num().abs().max()
        if not torch.allclose(want, have, rtol=0, atol=float(_TOLERANCE * scale), equal_nan=True):
            worst = float((want - have).abs().max() / scale)
            raise FgpError(f"{_REFUSED}: the output is off by {worst:.1e} of its scale")


_REFUSED = (
    "this network cannot lose these channels exactly, an operation in its forward pass mixes or reorders channels; "
    "leave out of the plan the layers before that operation"
)


def _double(network: nn.Module) -> nn.Module:
    """Return a float64 copy in eval mode, without a second copy of the tensors on the way."""
    memo = {id(old): nn.Parameter(old.detach().double()) for old in network.parameters()}
    memo |= {id(old): old.double() for old in network.buffers() if old.is_floating_point()}
    return copy.deepcopy(network, memo).eval()


def _masked(network: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a float64 copy whose layers see zeros in the input channels `masks`."""
    masked = _double(network)
    names = dict(masked.named_modules())
    for name, channels in masks.items():
        names[name].register_forward_pre_hook(lambda module, inputs, channels=channels: (_zeroed(module, inputs[0], channels),))
    return masked


def _zeroed(module: nn.Module, features: Tensor, channels: Tensor) -> Tensor:
    dim = -1 if isinstance(module, nn.Linear) else 1
    return features.index_fill(dim, channels.to(features.device), 0)


def _first_that_runs(network: nn.Module, example: Tensor) -> tuple[list[Tensor], Tensor]:
    *_, last = images = list(_images(network, example))
    for image in images:
        try:
            return _run(network, image), image
        except Exception as error:
            if image is last:
                raise FgpError(f"the dense network does not run on an input of shape {tuple(image.shape)}: {error}") from error
    raise AssertionError


def _images(network: nn.Module, example: Tensor) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    _, channels, *sides = example.shape
    for shape in dict.fromkeys([tuple(min(side, _SIDE) for side in sides), tuple(sides)]):
        noise = torch.randn((1, channels, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        yield noise.to(device)


def _run(network: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return coupling.flatten(network(image))
