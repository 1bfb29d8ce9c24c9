"""Groups of convolutions that lose their channels together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgp import coupling

Positions = dict[tuple[str, str], Tensor]
"""For each (module, axis) the tensor (C, m) of positions that go with each channel; see `fgp.coupling.Touched`."""


@dataclass(frozen=True)
class Group:
    """Convolutions whose output channels go together.

    Attributes:
        leader: the first member in the order of `named_modules()`; plans name the group after it.
        members: all of them, the leader included.
        channels: output channels of each member.
        unit: this many neighbouring channels stay or go as one. 1 unless a member is a grouped convolution, whose channels are
            removed by whole groups, so that what remains is a grouped convolution again.
        residual: the channels reach a sum of feature maps of several convolutions.
        whole: why none of the channels can be removed, or None.
    """

    leader: str
    members: tuple[str, ...]
    channels: int
    unit: int
    residual: bool
    whole: str | None


def unite(outputs: dict[str, coupling.Outputs], modules: dict[str, nn.Module]) -> tuple[tuple[Group, ...], dict[str, Positions]]:
    """Unite convolutions that share channels; return the groups and, by leader, all that goes with their channels."""
    whole = {name: found.whole for name, found in outputs.items()}
    parent = {name: name for name in outputs}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for name, found in outputs.items():
        for touched in found.touched:
            if not _shares(touched, modules):
                continue
            other = touched.module
            if other not in outputs or not _is_identity(touched.index, modules[other]):
                whole[name] = whole[name] or f"shares channels with {other} in part only"
            if other in outputs:
                whole[other] = whole[other] or whole[name]
                parent[root(other)] = root(name)
    families: dict[str, list[str]] = {}
    for name in outputs:
        families.setdefault(root(name), []).append(name)
    groups, everything = [], {}
    for members in families.values():
        touched = _merged(outputs[member].touched for member in members)
        reasons = [whole[member] for member in members if whole[member]]
        if touched is None:
            reasons.append("a layer sees its channels unequally often")
        if any(_is_cut_off(modules[member], member, touched or {}) for member in members):
            reasons.append("it is a grouped convolution whose inputs cannot go along")
        plain = [member for member in members if modules[member].groups == 1]
        groups.append(
            Group(
                leader=members[0],
                members=tuple(members),
                channels=modules[members[0]].out_channels,
                unit=math.lcm(*(modules[m].out_channels // modules[m].groups for m in members if modules[m].groups > 1)),
                residual=len(plain) > 1 and any(outputs[member].summed for member in members),
                whole=reasons[0] if reasons else None,
            )
        )
        everything[members[0]] = {
            key: index
            for key, index in (touched or {}).items()
            if not (key[1] == "in" and getattr(modules[key[0]], "groups", 1) > 1)
        }
    return tuple(groups), everything


def _shares(touched: coupling.Touched, modules: dict[str, nn.Module]) -> bool:
    """Tell whether a convolution's own output channels go: it is summed, or it is grouped and loses inputs."""
    module = modules[touched.module]
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return False
    return module.groups > 1 or (touched.axis == "out" and isinstance(module, nn.Conv2d))


def _is_cut_off(conv: nn.Conv2d, name: str, touched: Positions) -> bool:
    """Tell whether a grouped convolution gets its inputs from outside its group; torch-pruning follows depthwise ones."""
    return 1 < conv.groups < conv.out_channels and (name, "in") not in touched


def _is_identity(index: Tensor, conv: nn.Conv2d) -> bool:
    same = conv.groups == 1 or conv.in_channels == conv.out_channels
    return same and index.shape == (conv.out_channels, 1) and bool((index[:, 0] == torch.arange(conv.out_channels)).all())


def _merged(parts: Iterable[Sequence[coupling.Touched]]) -> Positions | None:
    """Unite what the members touch; None where channels go with unequal numbers of positions."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    for touched in parts:
        for entry in touched:
            found.setdefault((entry.module, entry.axis), []).append(entry.index)
    if any(len({len(index) for index in indices}) > 1 for indices in found.values()):
        return None
    merged = {}
    for key, indices in found.items():
        rows = [sorted(set(row)) for row in torch.cat(indices, dim=1).tolist()]
        if len({len(row) for row in rows}) > 1:
            return None
        merged[key] = torch.tensor(rows)
    return merged
