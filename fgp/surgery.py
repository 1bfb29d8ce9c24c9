"""Removing channels from a network, and what a removal costs, without building it.

Removing a channel means that everything that reads it sees zeros in its place: its filter, bias and batch-norm entry go, and with
them the constant that a masked channel would pass on. Convolutions that share channels lose them together; see `Structure`.
"""

import copy
import difflib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fgp import coupling, slicing, verification
from fgp.errors import FgpError
from fgp.groups import Group, unite

Plan = dict[str, list[int]]
Scores = dict[str, Tensor]

_RESIDUAL = "reaches a residual sum"


class Structure:
    """The coupled channels of a network, traced once on the meta device (no arithmetic, whatever the input size).

    Args:
        model: any convolutional network; it is left alone.
        example_input: tensor (N, C, H, W); only shape and dtype count. MACs are for one image of that size.
        tied: prune the groups that reach a residual sum too, as one; otherwise they stay whole.
        traced: what `coupling.trace` found on a network of the same architecture and an input of the same shape; default: trace.

    Attributes:
        groups: all groups of coupled convolutions, in network order.
        positions: how often each layer's weights are applied to one image, {layer: count}.

    Raises:
        FgpError: the input is no image batch, or the forward pass fails.
    """

    def __init__(self, model: nn.Module, example_input: Tensor, tied: bool = False, traced: coupling.Trace | None = None) -> None:
        if not isinstance(example_input, Tensor) or example_input.dim() != 4:
            raise FgpError("example_input: expected a tensor of shape (N, C, H, W)")
        self.tied = tied
        self._model = model
        self._example = example_input.to("meta")
        self._modules = dict(model.named_modules())
        traced = traced or coupling.trace(model, example_input)
        self.positions = traced.positions
        self.groups, self._touched = unite(traced.outputs, self._modules)
        self._group_of = {member: group for group in self.groups for member in group.members}

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may lose channels, in network order."""
        return tuple(group for group in self.groups if self._kept_whole(group) is None)

    def consumers(self, leader: str) -> dict[str, Tensor]:
        """Return who reads the channels of a group: {module name: tensor (C, m), the input positions that hold each channel}."""
        return {name: index for (name, axis), index in self._touched[leader].items() if axis == "in"}

    def producers(self, leader: str) -> dict[str, Tensor]:
        """Return what makes the channels of a group, its convolutions and the norms behind them: {module name: tensor (C, m)}."""
        return {name: index for (name, axis), index in self._touched[leader].items() if axis == "out"}

    def gather(self, scores: Scores) -> Scores:
        """Bring scores of single convolutions into the form in which channels are chosen.

        Args:
            scores: {layer: tensor (C_out,)}; layers that stay whole may be there or not.

        Returns:
            One float64 tensor (C_out,) on the CPU a prunable group, named after its leader: the sum over its members. Where whole
            units go (`Group.unit`), every channel carries the mean of its unit.

        Raises:
            FgpError: unknown layer, wrong length, not finite, or a group scored in part.
        """
        for name, values in scores.items():
            self._check_conv(name, "scores")
            channels = self._modules[name].out_channels
            if tuple(values.shape) != (channels,):
                raise FgpError(f"scores of {name}: expected shape ({channels},), found {tuple(values.shape)}")
            if not torch.isfinite(values).all():
                raise FgpError(f"scores of {name}: not all finite; compute the scores again")
        gathered = {}
        for group in self.prunable:
            missing = [member for member in group.members if member not in scores]
            if missing and len(missing) < len(group.members):
                raise FgpError(
                    f"scores: {group.leader} is coupled with {', '.join(missing)}, which has no scores; score every layer"
                )
            if not missing:
                total = sum(scores[member].detach().to("cpu", torch.float64) for member in group.members)
                gathered[group.leader] = total.view(-1, group.unit).mean(1).repeat_interleave(group.unit)
        return gathered

    def applied(self, plan: Mapping[str, Sequence[int]], on_whole: Callable[[str], None] | None = None) -> Plan:
        """Return what a plan really does: one entry a group, layers that must stay whole left out, units completed.

        Args:
            plan: {layer: kept indices}.
            on_whole: called with "layer (reason)" for each entry that would shorten a layer that stays whole.

        Raises:
            FgpError: unknown layer, bad indices, or entries that disagree inside a group.
        """
        entries: dict[Group, dict[str, list[int]]] = {}
        for name, indices in plan.items():
            self._check_conv(name, "plan")
            kept = _check_indices(name, indices, self._modules[name].out_channels)
            group = self._group_of.get(name)
            reason = self._kept_whole(group) if group else "the forward pass does not reach it"
            if reason is None:
                entries.setdefault(group, {})[name] = kept
            elif on_whole and len(kept) < self._modules[name].out_channels:
                on_whole(f"{name} ({reason})")
        return {group.leader: _complete(group, _agreed(entries[group])) for group in self.groups if group in entries}

    def macs(self, plan: Mapping[str, Sequence[int]] | None = None) -> int:
        """Return the MACs of one image after `plan` (None: dense), without pruning; one multiply-add is one MAC."""
        axes = self._axes(plan or {})
        return sum(
            count * slicing.macs_per_position(self._modules[name], axes[name, "out"], axes[name, "in"])
            for name, count in self.positions.items()
        )

    def params(self, plan: Mapping[str, Sequence[int]] | None = None) -> int:
        """Return the number of parameters after `plan` (None: dense), without pruning."""
        dense, axes = self._axes({}), self._axes(plan or {})
        total = sum(parameter.numel() for parameter in self._model.parameters())
        for name in {name for touched in self._touched.values() for name, _ in touched}:
            module = self._modules[name]
            total -= slicing.parameters(module, dense[name, "out"], dense[name, "in"])
            total += slicing.parameters(module, axes[name, "out"], axes[name, "in"])
        return total

    def kept(self, plan: Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
        """Return {layer: output channels after `plan`} (None: dense) of every Conv2d."""
        axes = self._axes(plan or {})
        return {name: axes[name, "out"] for name, module in self._modules.items() if isinstance(module, nn.Conv2d)}

    def prune(self, plan: Mapping[str, Sequence[int]]) -> nn.Module:
        """Return a copy of the network without the channels that `plan` drops; its `fgp_plan` is the plan really applied.

        The copy is checked: on a random image its output equals, in float64, that of the dense network with zeros in place of the
        removed channels.

        Warns:
            UserWarning: entries of layers that stay whole, all in one warning.

        Raises:
            FgpError: a bad plan (see `applied`), or a network on which the removal would not be exact.
        """
        whole: list[str] = []
        applied = self.applied(plan, whole.append)
        if whole:
            hint = f"; tied=True prunes what {_RESIDUAL}, together" if any(_RESIDUAL in entry for entry in whole) else ""
            warnings.warn(f"left whole: {', '.join(whole)}{hint}", stacklevel=2)
        removed = self._removed(applied)
        pruned = copy.deepcopy(self._model)
        modules = dict(pruned.named_modules())
        for (name, axis), indices in removed.items():
            size = slicing.sizes(modules[name])[axis]
            mask = torch.ones(size, dtype=torch.bool)
            mask[indices] = False
            slicing.keep(modules[name], axis, mask.nonzero().flatten())
        pruned.fgp_plan = applied
        masks = {name: indices for (name, axis), indices in removed.items() if axis == "in"}
        verification.check(self._model, pruned, masks, self._example)
        return pruned

    def _kept_whole(self, group: Group) -> str | None:
        if group.whole is None and group.residual and not self.tied:
            return f"it {_RESIDUAL}"
        return group.whole

    def _check_conv(self, name: str, what: str) -> None:
        if not isinstance(self._modules.get(name), nn.Conv2d):
            convs = [other for other, module in self._modules.items() if isinstance(module, nn.Conv2d)]
            close = difflib.get_close_matches(name, convs, n=3, cutoff=0.0)
            raise FgpError(
                f"{what}: {name!r} is no Conv2d of this network; closest: {', '.join(close) or 'none, it has no Conv2d'}"
            )

    def _removed(self, applied: Plan) -> dict[tuple[str, str], Tensor]:
        """Return the indices that go, for each module and axis."""
        removed: dict[tuple[str, str], list[Tensor]] = {}
        for leader, kept in applied.items():
            mask = torch.ones(self._group_of[leader].channels, dtype=torch.bool)
            mask[kept] = False
            if mask.any():
                for key, index in self._touched[leader].items():
                    removed.setdefault(key, []).append(index[mask].flatten())
        return {key: torch.cat(parts) for key, parts in removed.items()}

    def _axes(self, plan: Mapping[str, Sequence[int]]) -> Counter:
        """Return the channels left on each axis of each layer, as {(module, axis): count}."""
        axes: Counter = Counter()
        names = {*self.positions, *(name for touched in self._touched.values() for name, _ in touched)}
        convs = (name for name, module in self._modules.items() if isinstance(module, nn.Conv2d))
        for name in names.union(convs):
            for axis, size in slicing.sizes(self._modules[name]).items():
                axes[name, axis] = size
        for leader, kept in self.applied(plan).items():
            gone = self._group_of[leader].channels - len(kept)
            for key, index in self._touched[leader].items():
                axes[key] -= gone * index.shape[1]
        return axes


def prunable(scores: Scores, model: nn.Module, example_input: Tensor, tied: bool = False) -> Scores:
    """Bring scores into the form in which channels are chosen: one entry a group that may be pruned (see `Structure.gather`).

    With `tied=False` layers that reach a residual sum are left out; with `tied=True` each such group is one entry.
    """
    return Structure(model, example_input, tied).gather(scores)


def prune(model: nn.Module, plan: Mapping[str, Sequence[int]], example_input: Tensor, tied: bool = False) -> nn.Module:
    """Return a copy of `model` without the channels that `plan` drops (see `Structure.prune`); `model` is left alone."""
    return Structure(model, example_input, tied).prune(plan)


def _check_indices(name: str, indices: Sequence[int], channels: int) -> list[int]:
    kept = sorted(int(index) for index in indices)
    if not kept:
        raise FgpError(f"plan: {name} keeps no channel; keep at least one")
    if kept[0] < 0 or kept[-1] >= channels:
        wrong = kept[0] if kept[0] < 0 else kept[-1]
        raise FgpError(f"plan: {name} has {channels} channels, index {wrong} is out of range")
    if len(set(kept)) < len(kept):
        raise FgpError(f"plan: {name} names a channel twice; give each kept index once")
    return kept


def _agreed(entries: dict[str, list[int]]) -> list[int]:
    first, *others = entries.items()
    for name, kept in others:
        if kept != first[1]:
            raise FgpError(
                f"plan: {first[0]} and {name} share their channels but keep different ones; choose channels from the scores that "
                "fgp.prunable returns, or give one entry for the group"
            )
    return first[1]


def _complete(group: Group, kept: list[int]) -> list[int]:
    return [channel for unit in sorted({index // group.unit for index in kept})
            for channel in range(unit * group.unit, (unit + 1) * group.unit)]  # fmt: skip
