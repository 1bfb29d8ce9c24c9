"""The structure of the network of a weights file: an architecture of this project is traced once a process."""

from functools import cache

import torch
from torch import nn

from fgp import coupling, models
from fgp.surgery import Structure


def structure_of(model: nn.Module, example_input: torch.Tensor, tied: bool) -> Structure:
    """Return `Structure(model, example_input, tied)`, for a network that `fgp.load` built.

    Raises:
        FgpError: see `Structure`.
    """
    if model.fgp_spec is None:
        return Structure(model, example_input, tied)
    shapes, traced = _traced(model.fgp_spec, tuple(example_input.shape[1:]))
    return Structure(model, example_input, tied, traced if shapes == _shapes(model) else None)


@cache
def _traced(spec: models.Spec, size: tuple[int, ...]) -> tuple[dict[str, torch.Size], coupling.Trace]:
    """Return the shapes of the tensors of a dense network, and its trace on an image (C, H, W)."""
    with torch.device("meta"):
        dense = models.build(spec.name, spec.num_classes, spec.width)
    return _shapes(dense), coupling.trace(dense, torch.empty(1, *size, device="meta"))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
