"""AOFP: while the network trains, a binary search in each layer for the filters that the next layer's output misses least.

Paper: Ding et al. 2019, "Approximated Oracle Filter Pruning for Destructive CNN Width Optimization" (arXiv 1905.04748).
Equation: t = sum of (base - ablated)^2 / sum of base^2 at the next layer's output, of the training batch. At each step half
(rounded down) of a layer's competing filters S, at first all that are left, is ablated at random, and t credited to each. After
`iterations` steps let g = size of S / 2 (rounded down): if the g-th smallest mean t < theta, those g filters are masked for good
and S is all that are left; else, if g > 1, those g become S; else S is all that are left. Training goes on to the FLOPs target.
Official repository: DingXiaoH/AOFP (aofp/aofp_conv.py, aofp/aofp_train.py, aofp/do_aofp.py).
Reads the channel: where the next layer reads it; the damage behind that layer's batch normalisation and ReLU.
Deviations:
1. theta starts at the repository's 0.01 and is doubled each time all layers were searched and the MACs are still above a straight
   line, from the dense network's at the first step to the budget after 3/4 of the steps. There it is constant, for up to 600
   epochs.
2. iterations is the repository's 1000, or what lets a layer be searched 10 times in a shorter run; the warm-up is half of it, as
   there. Learning rate and schedule are the recipe's (there 0.001).
3. Of the last g filters only those go that the budget takes; what is missing to it is made up by the least mean t of all layers.
   The repository compares the FLOPs after each epoch, and ends below its target.
4. The ablated pass changes no running statistics of batch normalisation; in the repository both passes update them.
5. The next layer's output is taken where it is linear, too (the logits of VGG-16 here, a hidden layer there). Where several
   layers read a filter (ours), both sums run over all of them. Residual sums follow `tied`; the paper prunes inside the blocks.
"""

from __future__ import annotations

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
    label="AOFP",
    kind="gradual",
    needs=frozenset({"forward", "seed"}),
    selection="global",
    tasks=frozenset({"classification"}),
    paper_name="AOFP",
    start="dense",
)


SEARCHES = 10
DONE = 0.75


def pruning(
    budget: float,
    tied: bool = False,
    *,
    iterations: Annotated[
        int | None,
        Field(
            ge=1,
            description="training steps a round; if left out 1000, or what lets a layer be searched 10 times in a shorter run",
        ),
    ] = None,
    theta: Annotated[float, Field(ge=1e-9, description="the mean t below which filters go, at first")] = 0.01,
    warmup: Annotated[
        int | None,
        Field(
            ge=0,
            description="training steps before the first layer's search; the others follow in steps of iterations / layers; "
            "if left out half of iterations",
        ),
    ] = None,
) -> Gradual:
    """Return the hook that prunes.

    Args:
        budget: MACs to reach, see `Gradual`.
        tied: see `Gradual`.
        iterations, theta, warmup: see their descriptions.
    """
    import torch

    from fgp.scoring.ablation import Ablations, Round
    from fgp.train.gradual import Gradual

    class Search(Gradual):
        def begin(self, run: Run) -> None:
            super().begin(run)
            images, _ = next(iter(run.batches))
            self.units = {group.leader: group.unit for group in self.structure.prunable}
            self.iterations = _iterations(self.structure, run.steps) if iterations is None else iterations
            start, apart = self.iterations // 2 if warmup is None else warmup, self.iterations // max(1, len(self.units))
            self.starts = {leader: start + place * apart for place, leader in enumerate(self.units)}
            self.ablations = Ablations(self.structure, run.model, images[:1], self.masks.kept).attach()
            self.generator = torch.Generator().manual_seed(run.seed)
            self.step, self.theta, self.searched = 0, theta, set()
            self.rounds = {leader: self.first_round(leader) for leader in self.units}
            self.draw()

        def first_round(self, leader: str) -> Round:
            unit = self.units[leader]
            return Round(
                [first // unit for first in self.plan[leader][::unit]], len(self.masks.kept[leader]) // unit, self.run.device
            )

        def draw(self) -> None:
            """Choose what the next step ablates."""
            self.ablations.chosen = {
                leader: turn.draw(self.generator)
                for leader, turn in self.rounds.items()
                if self.step >= self.starts[leader] and len(turn.competing) > 1
            }

        def after_step(self, images: Tensor, labels: Tensor) -> None:
            self.step += 1
            for leader, damages in self.ablations.take().items():
                self.rounds[leader].credit(self.ablations.chosen[leader], damages)
            for leader in self.units:
                if self.rounds[leader].ablations == self.iterations:
                    self.decide(leader)
            self.draw()

        def decide(self, leader: str) -> None:
            """Mask the better half of a layer's round, or search on in it, or start again."""
            turn = self.rounds[leader]
            ranked, means = turn.ranked()
            half = len(ranked) // 2
            if means[half - 1] < self.theta:
                self.mask(leader, ranked[:half].tolist())
            elif half > 1:
                self.rounds[leader] = Round(ranked[:half], turn.units, self.run.device)
                return
            else:
                self.rounds[leader] = self.first_round(leader)
            self.searched.add(leader)
            if self.searched >= {name for name, other in self.rounds.items() if len(other.competing) > 1}:
                self.searched = set()
                dense, share = self.structure.macs(), min(1, self.step / (DONE * self.run.steps))
                if self.macs > dense + share * (self.target - dense):
                    self.theta *= 2

        def mask(self, leader: str, units: list[int]) -> None:
            """Mask `units` of a layer, as many as the budget takes; this layer and those that lost any start again."""
            means = {name: zip(*(column.tolist() for column in turn.ranked()), strict=True) for name, turn in self.rounds.items()}
            others = sorted((mean, name, unit) for name, ranked in means.items() for unit, mean in ranked)
            ranking = [(leader, unit) for unit in units] + [(name, unit) for _, name, unit in others]
            before = self.plan
            self.remove([(name, unit * self.units[name]) for name, unit in ranking], most=len(units))
            for name in before:
                if name == leader or before[name] != self.plan[name]:
                    self.rounds[name] = self.first_round(name)

        def end(self) -> None:
            self.ablations.detach()
            super().end()

        def state_dict(self) -> dict:
            return {
                **super().state_dict(),
                "step": self.step,
                "theta": self.theta,
                "searched": sorted(self.searched),
                "generator": self.generator.get_state(),
                "rounds": {leader: turn.state_dict() for leader, turn in self.rounds.items()},
                "chosen": self.ablations.chosen,
            }

        def load_state_dict(self, state: dict) -> None:
            super().load_state_dict(state)
            self.step, self.theta, self.searched = state["step"], state["theta"], set(state["searched"])
            self.generator.set_state(state["generator"])
            self.rounds = {leader: Round.load(saved, self.run.device) for leader, saved in state["rounds"].items()}
            self.ablations.chosen = {leader: ablated.to(self.run.device) for leader, ablated in state["chosen"].items()}

    return Search(budget, tied)


pruning = checked(pruning)


def _iterations(structure: Structure, steps: int) -> int:
    """Return how many steps a round may take for `SEARCHES` of the widest layer to fit, the repository's 1000 at most."""
    rounds = max(((group.channels // group.unit).bit_length() - 1 for group in structure.prunable), default=1)
    return min(1000, max(1, steps // (SEARCHES * max(1, rounds))))
