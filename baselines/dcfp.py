"""DCFP: moving average of the gradients of a BN scale that shrink it, and fine-tuning by a loss for rare classes.

Paper: Wang et al. 2023, "DCFP: Distribution Calibrated Filter Pruning for Lightweight and Accurate Long-tail Semantic
Segmentation" (IEEE TCSVT; no arXiv version).
Equation: after every backward pass, where gamma[c] dgamma[c] > 0: e[c] <- .999 e[c] + .001 |dgamma[c]|, from 0; s[c] is the
rank of e[c].
Official repository: wzx99/DCFP (pruners/, loss/criterion.py, datasets/Base.py, prune.py).
Reads the channel: the scale of the batch normalisation that takes the convolution's output.
Deviations:
1. The repository trains for 4000 of its 40000 steps, from ImageNet's weights and a new head, then prunes that network. Here no
   network has seen ImageNet: the run starts from random weights, in place of the dense one, with its recipe and its loss.
2. The repository raises one percentile for backbone and head until the FLOPs fit. The same, as scores: the share of the channels
   of the same part that have a smaller e, so that one threshold is one percentile in both. Layers that always stay do not count.
3. At least 2 % of a layer stay: its best 2 % score 1 more. Coupled convolutions keep what one of them keeps: the group has the
   largest of their scores, each member an equal part. Groups that reach a residual sum stay whole by default.
4. Two layers that the repository excepts by name may be pruned: ASPP's pooling branch and, with tied, the backbone's last sum.
5. Repair: the constant that a removed channel passes on is relu(beta) in the repository (of the sum of the betas at a residual
   sum); here it is measured, on one image with these filters and scales at 0, so that it holds for any activation and pooling.
   Padded borders are ignored, as there. A reader without normalisation takes it into its bias; one without bias, where the
   repository makes one, and one that runs in training only are left as they are.
6. Fine-tuning has the repository's loss (GSRL, `fgp.train.rebalanced`), which replaces the recipe's class weights and aux_weight,
   with the suite's images: no class-balanced choice, no crop around the class that an image was drawn for; that is drawn after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from fgp.surgery import Plan, Scores, Structure
    from fgp.train.hooks import Hook, Run

METHOD = Method(
    label="DCFP",
    kind="sparse-training",
    needs=frozenset({"gradient", "labels"}),
    selection="global",
    tasks=frozenset({"segmentation"}),
    paper_name="DCFP",
    start="random",
)

DECAY, LEAST = 0.999, 0.02
BACKBONE = ("backbone", "encoder", "stem", "layer1", "layer2", "layer3", "layer4")


def training(
    *, iterations: Annotated[int | None, Field(ge=1, description="last steps of the training that count; if left out all")] = None
) -> Hook:
    """Return the hook that averages e over the last `iterations` steps of the training; then it has the scores."""
    import torch

    from fgp.layers import norms_after
    from fgp.scoring.group_norms import layer_scores
    from fgp.surgery import Structure
    from fgp.train.hooks import Hook

    class Equalisation(Hook):
        def begin(self, run: Run) -> None:
            images, _ = next(iter(run.batches))
            norms = {conv: run.model.get_submodule(norm) for conv, norm in norms_after(run.model, images).items() if norm}
            self.scales = {conv: norm.weight for conv, norm in norms.items() if norm.weight is not None}
            self.importance = {conv: torch.zeros_like(scale.detach()) for conv, scale in self.scales.items()}
            self.model, self.structure = run.model, Structure(run.model, images[:1], tied=True)
            self.skipped = 0 if iterations is None else run.steps - iterations
            self.step = 0

        def after_backward(self, images: Tensor, labels: Tensor) -> None:
            self.step += 1
            if self.step <= self.skipped:
                return
            for conv, e in self.importance.items():
                scale, gradient = self.scales[conv].detach(), self.scales[conv].grad
                if gradient is not None:
                    e.copy_(torch.where(scale * gradient > 0, DECAY * e + (1 - DECAY) * gradient.abs(), e))

        def scores(self) -> Scores:
            return layer_scores(self.structure, self.model, ranked(self.importance, self.structure))

        def state_dict(self) -> dict:
            return {"importance": self.importance, "step": self.step}

        def load_state_dict(self, state: dict) -> None:
            self.step = state["step"]
            for conv, e in self.importance.items():
                e.copy_(state["importance"][conv])

    return Equalisation()


training = checked(training)


def ranked(importance: Mapping[str, Tensor], structure: Structure) -> Scores:
    """Return {group leader: scores (C,)} from e by convolution (deviations 2 and 3); 2, above all others, in groups without e."""
    import torch

    parts: dict[bool, list[str]] = {}
    for name in (name for group in structure.prunable for name in group.members if name in importance):
        parts.setdefault(name.split(".")[0] in BACKBONE, []).append(name)
    shares = {}
    for names in parts.values():
        pool = torch.cat([importance[name] for name in names]).sort().values
        for name in names:
            shares[name] = torch.searchsorted(pool, importance[name]) / len(pool)
            best = importance[name].topk(max(1, int(LEAST * len(shares[name])))).indices
            shares[name][best] += 1
    united = {}
    for group in structure.prunable:
        members = [shares[name].cpu() if name in shares else torch.full((group.channels,), 2.0) for name in group.members]
        united[group.leader] = torch.stack(members).amax(0)
    return united


def repair(model: nn.Module, plan: Plan, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> nn.Module:
    """Return a copy of the dense network in which the readers of the removed channels expect their constants (deviation 5).

    One image of `batches` is read; `seed` is not.

    Raises:
        FgpError: `batches` is empty, or the plan does not fit.
    """
    from fgp.compensation import with_constants
    from fgp.scoring.checks import example_of

    return with_constants(model, plan, example_of(model, batches))


def finetuning() -> Hook:
    """Return the hook that replaces the loss of the fine-tuning by GSRL."""
    from fgp.train.rebalanced import Rebalanced

    return Rebalanced()
