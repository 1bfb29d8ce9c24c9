"""Group Fisher: while the network is fine-tuned, the channel with the least Fisher information for what it frees goes.

Paper: Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression" (arXiv 2108.00708).
Equation: s[k] = sum over images n of (sum over the layers that read channel k, and positions, of a * dL[n]/da)^2 / freed, as in
`group-fisher-oneshot`, summed over the images of `interval` training steps; then the channel with the least s of all groups is
masked, and the sum starts anew. Coupled channels are one; the MACs that a channel frees are those of the masked network.
Official repository: jshilong/FisherPruning (detection/tools/fisher_pruning.py); Ben-Louis/FisherPruning-Pytorch (classification).
Reads the channel: at the input of every convolution and linear layer that reads it, behind normalisation, ReLU and residual sum.
Deviations:
1. Steps between two removals: 10, the default of both repositories; for ResNet-50 on ImageNet the second sets 25 (an option).
   Where the training is too short for one channel at a time, `channels` go together.
2. The repositories prune at a learning rate of their own (0.004 for ResNet-50 on ImageNet); here the recipe sets it, and the
   training ends when the budget is met.
3. The gradient of a batch's mean loss is scaled by the batch's size, so that a short last batch does not weigh more.
4. Channels that reach a residual sum take part in tied tasks only; elsewhere they stay whole.
5. The last channel of a layer stays, and so does one that would overshoot the budget by more than 0.5 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from baselines.group_fisher_oneshot import Resource
from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from fgp.train.gradual import Gradual

METHOD = Method(label="Group Fisher", kind="gradual", needs=frozenset({"gradient", "labels"}), start="dense")


def pruning(
    budget: float,
    tied: bool = False,
    *,
    interval: Annotated[int, Field(ge=1, description="training steps from one removal to the next")] = 10,
    channels: Annotated[int, Field(ge=1, description="channels removed at a time")] = 1,
    normalise: Resource = "memory",
) -> Gradual:
    """Return the pruning to `budget` (see `fgp.train.gradual.Gradual`).

    Args:
        budget: fraction of the dense MACs if at most 1, else MACs of one image.
        tied: prune the groups that reach residual sums too.
        interval, channels, normalise: see their descriptions.
    """
    from fgp.scoring.fisher import GroupFisher

    return GroupFisher(budget, tied, interval, channels, normalise)


pruning = checked(pruning)
