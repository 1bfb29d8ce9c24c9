"""DepGraph: sparse learning that shrinks the weights of weak channels over all coupled layers, then the norm of the group.

Paper: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), Section 3.3.
Equation: in every step strength * gamma[k] * w is added to the gradient of each weight w of channel k, with
gamma[k] = 2^(alpha (Imax - I[k]) / (Imax - Imin)), alpha = 4 and I[k] = sum over the group's layers of ||w[k]||_2^2 at that step,
Imax and Imin over the group. A weight has an output and an input channel and is shrunk for both. Then s[k] as in `depgraph`:
I[k] / mean over the group's channels of I, one ranking over all groups.
Official repository: VainF/Torch-Pruning (pruner/algorithms/group_norm_pruner.py; reproduce/main.py, method group_sl).
Reads the channel: the weights of the whole group, without biases and shifts.
Deviations:
1. gamma is the paper's; the repository has the square root of I in its place.
2. The score is normalised by the group's mean; the repository takes the maximum on CIFAR, the mean elsewhere.
3. The repository turns weight decay off during sparse learning; here the recipe decides, and its decay comes on top.
4. The strength, 5e-4, is the repository's for CIFAR; for ResNet-50 on ImageNet it takes 1e-4 (an option).
5. Where all channels of a group have the same norm gamma is 1; the repository divides by zero.
6. See `depgraph` for the selection and for depthwise convolutions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from baselines.depgraph import score
from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from fgp.train.hooks import Hook

__all__ = ["METHOD", "score", "training"]

METHOD = Method(
    label="DepGraph",
    kind="sparse-training",
    needs=frozenset({"weights"}),
    selection="global",
    paper_name="DepGraph",
    start="dense",
)


def training(
    *,
    strength: Annotated[float, Field(ge=0, description="the paper's lambda")] = 5e-4,
    alpha: Annotated[
        float, Field(ge=0, description="the weakest channel is shrunk 2^alpha times as much as the strongest")
    ] = 4.0,
) -> Hook:
    """Return the sparse learning, which goes on from the dense network; groups that reach residual sums take part.

    Raises:
        FgpError: in training, the channels of the network cannot be followed.
    """
    from fgp.scoring.group_norms import GroupShrinkage

    return GroupShrinkage(strength, alpha)


training = checked(training)
