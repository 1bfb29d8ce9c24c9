"""Pruning while training goes on: what gradual methods share."""

import warnings
from collections.abc import Iterable

from fgp.errors import FgpError
from fgp.masking import Masks
from fgp.surgery import Structure
from fgp.train.hooks import Hook, Run

TOLERANCE = 0.005


class Gradual(Hook):
    """Masks channels one after another until the network costs its budget; a method decides when and which.

    A method overrides `after_step` or `after_epoch` and calls `remove`. The masked network trains on as if the channels were
    gone; they are removed for real after the training, by `plan`.

    Attributes:
        per_sample: whether the method needs one gate an image, see `fgp.masking.Masks`.
        structure: of the network, from `begin` on.
        masks: of the network, from `begin` on.
        macs: MACs of the masked network for one image.
        target: MACs to reach.
        reached: the budget is reached, or the point nearest to it.
        whole_run: train to the end of the recipe all the same; otherwise the training stops there.
    """

    per_sample = False
    whole_run = False
    reached = False

    def __init__(self, budget: float, tied: bool = False) -> None:
        """Aim at `budget`, a fraction of the dense MACs if at most 1, else MACs of one image; `tied` as in `fgp.prune`."""
        self.budget, self.tied = budget, tied
        self.structure: Structure
        self.masks: Masks
        self.macs = self.target = 0.0

    def begin(self, run: Run) -> None:
        """Trace the network and attach the masks.

        Raises:
            FgpError: the budget is out of reach.
        """
        images, _ = next(iter(run.batches))
        self.run = run
        self.structure = Structure(run.model, images[:1], self.tied)
        self.masks = Masks(self.structure, run.model, self.per_sample).attach()
        self._units = {group.leader: group.unit for group in self.structure.prunable}
        dense = self.structure.macs()
        least = self.structure.macs({leader: range(unit) for leader, unit in self._units.items()})
        self.macs, self.target = dense, self.budget * dense if self.budget <= 1 else self.budget
        if not least * (1 - TOLERANCE) <= self.target <= dense:
            raise FgpError(
                f"budget {self.budget}: {self.target:,.0f} MACs cannot be reached; pruning reaches {least:,} to {dense:,} MACs "
                f"({least / dense:.4f} to 1 of the dense network)"
            )
        self._settle()

    def remove(self, ranking: Iterable[tuple[str, int]], most: int | None = None) -> int:
        """Mask channels in the order of `ranking`; return how many went (a unit of a grouped convolution counts once).

        A channel that is gone already, or the last of its layer, is passed over. So is one that would take the network more than
        0.5 % below its budget: further down there may be a smaller one. Where none of the whole ranking fits, the pruning ends
        at the point nearest to the budget.

        Args:
            ranking: (group leader, channel), the least important first; all channels that are left, for the end to be found.
            most: stop after so many.

        Warns:
            UserWarning: the nearest point is more than 1 % from the budget.
        """
        removed, too_large, blocked = 0, [], set()
        kept = {leader: set(indices) for leader, indices in self.masks.plan().items()}
        for leader, channel in ranking:
            if self.reached or removed == most:
                break
            first = channel - channel % self._units[leader]
            unit = set(range(first, first + self._units[leader]))
            if leader in blocked or not unit <= kept[leader] or unit == kept[leader]:
                continue
            macs = self._macs_without(kept, leader, unit)
            if macs < self.target * (1 - TOLERANCE):
                too_large.append((self.target - macs, leader, unit, macs))
                blocked.add(leader)  # every channel of a layer frees the same
                continue
            kept[leader] -= unit
            self.macs = macs
            removed += 1
            blocked.clear()
            self._settle()
        if removed == 0 and not self.reached and too_large:
            distance, leader, unit, macs = min(too_large, key=lambda entry: entry[0])
            if distance < self.macs - self.target:
                kept[leader] -= unit
                self.macs, removed = macs, 1
            self.reached = True
            if abs(self.macs - self.target) > 2 * TOLERANCE * self.target:
                warnings.warn(f"budget {self.budget}: ends at {self.macs:,} MACs instead of {self.target:,.0f}", stacklevel=2)
        self.masks.load({leader: sorted(indices) for leader, indices in kept.items()})
        return removed

    @property
    def finished(self) -> bool:
        """Whether the training stops."""
        return self.reached and not self.whole_run

    @property
    def plan(self) -> dict[str, list[int]]:
        """The channels left, {group leader: kept indices}."""
        return self.masks.plan()

    def end(self) -> None:
        """Take the masks off.

        Raises:
            FgpError: the training ended before the budget was reached.
        """
        self.masks.detach()
        if not self.reached:
            raise FgpError(
                f"budget {self.budget}: the training ended at {self.macs:,} MACs, {self.target:,.0f} were asked for; raise "
                "epochs, or prune more at a time (options of the method)"
            )

    def state_dict(self) -> dict:
        """Return the channels left, and whether the pruning is over."""
        return {"plan": self.plan, "reached": self.reached}

    def load_state_dict(self, state: dict) -> None:
        """Mask what was masked."""
        self.masks.load(state["plan"])
        self.macs = self.structure.macs(state["plan"])
        self.reached = state["reached"]

    def _settle(self) -> None:
        self.reached = self.macs <= self.target * (1 + TOLERANCE)

    def _macs_without(self, kept: dict[str, set[int]], leader: str, unit: set[int]) -> int:
        plan = {name: sorted(indices - unit if name == leader else indices) for name, indices in kept.items()}
        return self.structure.macs(plan)
