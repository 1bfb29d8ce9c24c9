"""Handing on what removed channels contribute when their input is off: a constant."""

import copy

import torch
from torch import Tensor, nn

from fgp.layers import norms_after
from fgp.surgery import Plan, Structure


def with_constants(model: nn.Module, plan: Plan, images: Tensor) -> nn.Module:
    """Return a copy of a dense network whose layers expect the constants of the channels that `plan` drops.

    The constant of a channel is what its readers see when its filters and scales are 0, the mean over the positions of one image
    (relu(beta) behind a normalisation and a ReLU). What a reader makes of it, borders aside, is taken off the running mean of the
    normalisation behind the reader, or added to the reader's bias; a reader with neither is left as it is.

    Args:
        model: the dense network, left as it was.
        plan: {layer: kept indices}.
        images: (1, C, H, W), normalised, on the network's device.

    Raises:
        FgpError: the plan does not fit the network.
    """
    structure = Structure(model, images, tied=True)
    probe, repaired = copy.deepcopy(model).eval(), copy.deepcopy(model)
    gone: dict[str, list[Tensor]] = {}
    means: dict[str, Tensor] = {}
    for leader, kept in structure.applied(plan).items():
        for name, index in structure.producers(leader).items():
            module = probe.get_submodule(name)
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) and module.weight is not None:
                module.weight.data[_others(index, kept)] = 0
        for name, index in structure.consumers(leader).items():
            gone.setdefault(name, []).append(_others(index, kept))
    for name in gone:
        module = probe.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, args, name=name: means.update({name: args[0].mean((0, 2, 3))}))
    with torch.no_grad():
        probe(images)
    norms = norms_after(model, images)
    for name, mean in means.items():
        conv, channels = repaired.get_submodule(name), torch.cat(gone[name])
        constant = conv.weight.data.sum((2, 3))[:, channels] @ mean[channels]
        norm = repaired.get_submodule(norms[name]) if norms[name] else None
        if norm is not None and norm.running_mean is not None:
            norm.running_mean -= constant
        elif norm is None and conv.bias is not None:
            conv.bias.data += constant
    return repaired


def _others(index: Tensor, kept: list[int]) -> Tensor:
    """Return the positions in `index` (C, m) of the channels that are not kept."""
    return index[sorted(set(range(len(index))).difference(kept))].flatten()
