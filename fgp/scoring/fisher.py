"""Group Fisher: how much the loss changes with a channel of coupled layers, over what the channel frees."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.groups import Group
from fgp.masking import Masks
from fgp.scoring.checks import check_model, differentiable, place
from fgp.scoring.losses import gradients, sample_losses
from fgp.surgery import Structure
from fgp.train.gradual import Gradual
from fgp.train.hooks import Run


def fisher(slopes: Tensor, group: Group) -> Tensor:
    """Return the sum over images of the squared slope of the loss, float64 (C,).

    Args:
        slopes: (N, C), the gradient of each image's loss with respect to the gates of the group's channels.
        group: neighbouring channels that go as one (`Group.unit`) have their slopes added and share the result.
    """
    return slopes.double().view(len(slopes), -1, group.unit).sum(2).square().sum(0).repeat_interleave(group.unit)


def freed(structure: Structure, plan: Mapping[str, Sequence[int]], normalise: str) -> dict[str, float]:
    """Return what the next channel (unit) of each group frees in one image's forward pass; all channels of a group free the same.

    Args:
        structure: of the network.
        plan: the channels left, {group leader: kept indices}, one entry for each group that may lose channels.
        normalise: "memory", the values in the outputs of the group's convolutions; "macs", those of the convolutions and of all
            that reads them, at the channels left elsewhere (of the last channel: all MACs); "none", 1.

    Raises:
        FgpError: `normalise` is something else.
    """
    if normalise == "macs":
        counts = {leader: range(len(kept)) for leader, kept in plan.items()}
        now = structure.macs(counts)
        units = {group.leader: group.unit for group in structure.prunable}
        fewer = {leader: range(len(kept) - units[leader]) for leader, kept in counts.items()}
        return {leader: float(now - structure.macs({**counts, leader: left}) if left else now) for leader, left in fewer.items()}
    if normalise == "memory":
        return {
            group.leader: float(group.unit * sum(structure.positions[member] for member in group.members))
            for group in structure.prunable
        }
    if normalise != "none":
        raise FgpError(f"normalise {normalise!r}: give memory, macs or none")
    return dict.fromkeys(plan, 1.0)


def dense_scores(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], normalise: str
) -> tuple[Structure, dict[str, Tensor]]:
    """Return the structure of `model`, groups that reach residual sums included, and {group leader: float64 (C,)}.

    Costs a forward pass and a backward pass with respect to the activations; the network is left as it was.

    Args:
        model: a network in eval mode.
        batches: of images and labels, read once.
        normalise: see `freed`.

    Raises:
        FgpError: `batches` is empty, the labels do not fit, or the loss is not finite.
    """
    check_model(model)
    masks, totals = None, {}
    try:
        with differentiable(model):
            for images, labels in batches:
                images = place(images, model)
                if masks is None:
                    structure = Structure(model, images, tied=True)
                    masks = Masks(structure, model, per_sample=True).attach()
                loss = sample_losses(model(images), labels).sum()
                for group, slopes in zip(structure.prunable, gradients(loss, list(masks.gates.values())), strict=True):
                    totals[group.leader] = totals.get(group.leader, 0) + fisher(slopes, group)
    finally:
        if masks is not None:
            masks.detach()
    if masks is None:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    resource = freed(structure, masks.plan(), normalise)
    return structure, {leader: total / resource[leader] for leader, total in totals.items()}


class GroupFisher(Gradual):
    """Masks the least important channels of all groups every few steps, by what was summed up since the last time."""

    per_sample = True

    def __init__(self, budget: float, tied: bool, interval: int, channels: int, normalise: str) -> None:
        """Mask `channels` channels every `interval` steps; `budget` and `tied` as in `Gradual`, `normalise` as in `freed`."""
        super().__init__(budget, tied)
        self._interval, self._channels, self._normalise = interval, channels, normalise

    def begin(self, run: Run) -> None:
        """Attach the masks."""
        super().begin(run)
        self._forget()

    def after_backward(self, images: Tensor, labels: Tensor) -> None:
        """Sum up; the slopes of a mean loss are scaled so that an image counts the same in a batch of any size."""
        for group in self.structure.prunable:
            slopes = self.masks.gates[group.leader].grad
            if slopes is not None:
                self._fisher[group.leader] += fisher(len(images) * slopes, group)

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Mask, after every interval."""
        self._steps += 1
        if self._steps == self._interval:
            self.remove(self._ranking(), self._channels)
            self._forget()

    def state_dict(self) -> dict:
        """Return the channels left and what was summed up since the last removal."""
        return {**super().state_dict(), "steps": self._steps, "fisher": self._fisher}

    def load_state_dict(self, state: dict) -> None:
        """Take up both."""
        super().load_state_dict(state)
        self._steps = state["steps"]
        self._fisher = {leader: total.to(self.run.device) for leader, total in state["fisher"].items()}

    def _forget(self) -> None:
        self._steps = 0
        self._fisher = {leader: torch.zeros_like(kept, dtype=torch.float64) for leader, kept in self.masks.kept.items()}

    def _ranking(self) -> list[tuple[str, int]]:
        """Return the channels left as (group leader, channel), the least important for what it frees first."""
        plan = self.plan
        resource = freed(self.structure, plan, self._normalise)
        values = torch.cat([self._fisher[leader][kept] / resource[leader] for leader, kept in plan.items()])
        left = [(leader, channel) for leader, kept in plan.items() for channel in kept]
        return [left[place] for place in values.argsort(stable=True).tolist()]
