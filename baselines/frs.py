"""FRS: feature relevance scores, and channels that go while the network trains from scratch.

Paper: Aketi et al. 2020, "Gradual Channel Pruning While Training using Feature Relevance Scores for Convolutional Neural
Networks" (arXiv 2002.09958).
Equation: every n epochs until epoch N1 the x channels with the lowest scores of all layers go; the scores s[c] are those of
`frs_oneshot`, of the network as it is at that time. Then training goes on to its end.
Official repository: purdue-nrl/Gradual-Channel-Pruning-using-FRS (prune_VGG16.py, prune_resnet.py).
Reads the channel: the output of the convolution; normalisation and ReLU hand relevance on unchanged.
Deviations:
1. n and N1 are shares of the epochs, those of VGG-16 on CIFAR-10: n = 15, N1 = 150 of 200 epochs. x follows from the budget: at
   each event the channels that would have to go by the present ranking, divided by the events left (there x = 160).
2. A layer keeps one channel, and removal ends at the budget. The repository spares the first two convolutions of VGG-16, prunes
   its hidden linear layer (not in this VGG-16) by 22 an event, and on ResNets each convolution in a block, masked; here residual
   sums follow `tied`.
3. Removed channels are masked where they are read, their normalisation too; the repository zeroes the filter only.
4. The scores deviate as `frs_oneshot` says.
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from torch import Tensor

    from fgp.surgery import Structure
    from fgp.train.gradual import Gradual
    from fgp.train.hooks import Run

METHOD = Method(
    label="FRS",
    kind="gradual",
    needs=frozenset({"gradient", "labels"}),
    selection="global",
    tasks=frozenset({"classification"}),
    start="random",
)


def pruning(
    budget: float,
    tied: bool = False,
    *,
    interval: Annotated[float, Field(ge=0, le=1, description="n, a share of the epochs; rounded, one epoch at least")] = 15 / 200,
    until: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="N1, a share of the epochs; rounded down; where the interval is longer, there is one event, at N1",
        ),
    ] = 150 / 200,
    images: Annotated[
        int | None,
        Field(
            ge=1, description="training images that the scores are computed on, the first ones; if left out all, as in the paper"
        ),
    ] = None,
) -> Gradual:
    """Return the hook that prunes.

    Args:
        budget: MACs to reach, see `Gradual`.
        tied: see `Gradual`.
        interval, until, images: see their descriptions.
    """
    from fgp.train.gradual import Gradual

    class Relevance(Gradual):
        whole_run = True

        def begin(self, run: Run) -> None:
            super().begin(run)
            epochs = run.steps // run.steps_per_epoch
            step, last = max(1, round(interval * epochs)), max(1, int(until * epochs + 1e-9))
            self.events = list(range(step, last + 1, step)) or [last]

        def after_epoch(self, epoch: int) -> None:
            if self.reached or epoch not in self.events:
                return
            ranking = _ranking(self.structure, self.plan, _scores(self.run, images))
            events_left = sum(event >= epoch for event in self.events)
            if events_left > 1:
                self.remove(ranking, most=ceil(_needed(self.structure, self.plan, ranking, self.target) / events_left))
            else:
                while not self.reached and self.remove(ranking):
                    pass

    return Relevance(budget, tied)


pruning = checked(pruning)


def _scores(run: Run, images: int | None) -> dict[str, Tensor]:
    """Score the network in eval mode; the masks stay on."""
    from baselines import frs_oneshot

    training = [module for module in run.model.modules() if module.training]
    run.model.eval()
    try:
        return frs_oneshot.score(run.model, run.batches, run.seed, images=images)
    finally:
        for module in training:
            module.training = True


def _ranking(structure: Structure, plan: dict[str, list[int]], scores: dict[str, Tensor]) -> list[tuple[str, int]]:
    """Return (group leader, first channel of a unit) of what is left, weakest first, without the best of each layer."""
    values = structure.gather(scores)
    ranked = []
    for place, group in enumerate(structure.prunable):
        units = [(float(values[group.leader][first]), -place, -first) for first in plan[group.leader][:: group.unit]]
        ranked += sorted(units)[:-1]
    return [(structure.prunable[-place].leader, -first) for _, place, first in sorted(ranked)]


def _needed(structure: Structure, plan: dict[str, list[int]], ranking: list[tuple[str, int]], target: float) -> int:
    """Return how many units of the ranking have to go for the network to cost `target` MACs."""
    units = {group.leader: group.unit for group in structure.prunable}

    def macs(count: int) -> int:
        gone = set(ranking[:count])
        return structure.macs({name: [c for c in kept if (name, c - c % units[name]) not in gone] for name, kept in plan.items()})

    return bisect_left(range(len(ranking)), -target, key=lambda count: -macs(count))
