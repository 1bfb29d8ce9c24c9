"""Group Fisher (one-shot): squared change of each image's loss with a channel of coupled layers, over what the channel frees.

Paper: Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression" (arXiv 2108.00708).
Equation: s[k] = sum over images n of (sum over the layers that read channel k, and positions, of a * dL[n]/da)^2 / freed, with
a = what they read of the channel and L[n] = the cross-entropy of image n. freed = the values that channel k takes in the outputs
of the convolutions that make it ("memory"), the MACs that go with it ("macs"), or 1 ("none"). One ranking over all groups.
Official repository: jshilong/FisherPruning (detection/tools/fisher_pruning.py); Ben-Louis/FisherPruning-Pytorch (classification).
Reads the channel: at the input of every convolution and linear layer that reads it, behind normalisation, ReLU and residual sum.
Deviations:
1. The paper prunes one channel at a time while it trains (`group-fisher`), each by the images of 10 to 25 steps; here the dense
   network is scored once, in eval mode, on all batches, and selection and fine-tuning are shared.
2. A group's score is divided among its convolutions, because the suite sums over them. A convolution that is never pruned (the
   network's outputs) scores 1.
3. Segmentation (ours): an image's loss is the mean over its pixels that are not void.
4. Channels that pass a grouped convolution are read behind it; the repositories read them in front of it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="Group Fisher (one-shot)", needs=frozenset({"gradient", "labels"}), selection="global")

Resource = Annotated[
    Literal["memory", "macs", "none"], Field(description="what a channel frees, by which its Fisher information is divided")
]


def score(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int, *, normalise: Resource = "memory"
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `seed` is not read.

    Raises:
        FgpError: `batches` is empty, the labels do not fit, the loss is not finite, or the channels of the network cannot be
            followed.
    """
    from fgp.scoring.fisher import dense_scores
    from fgp.scoring.group_norms import layer_scores

    structure, totals = dense_scores(model, batches, normalise)
    return layer_scores(structure, model, totals)


score = checked(score)
