"""FRS (one-shot): feature relevance scores of the trained dense network, how much a channel contributes to the true class.

Paper: Aketi et al. 2020, "Gradual Channel Pruning While Training using Feature Relevance Scores for Convolutional Neural
Networks" (arXiv 2002.09958).
Equation: r[n, c] = mean over the positions of channel c of the relevance (layer-wise relevance propagation, alpha 2, beta 1) that
starts as 1 at the logit of image n's label; s[c] = |mean over classes k of w[k] * mean over the images n of k of r[n, c]|, with
w[k] = sigmoid(best class accuracy / accuracy of k), so that weakly learned classes count more; divided by ||s||_2 + 1e-9 of its
layer.
Official repository: purdue-nrl/Gradual-Channel-Pruning-using-FRS (compute_rscore.py, relevance_scores.py, utils_1.py).
Reads the channel: the output of the convolution; normalisation and ReLU hand relevance on unchanged.
Deviations:
1. The paper prunes while it trains (`frs`); here the dense network is scored once, selection and fine-tuning are shared.
2. Relevance is conserved (see fgp/scoring/relevance.py). The repository clamps weights to at least 1e-9 in size and adds 1e-9 to
   denominators, and multiplies relevance by the window's size at an average pool, which changes no score.
3. A residual block's last convolution gets the relevance of its branch; the repository reads it behind the sum.
4. Classes without an image are left out of the mean, and w = 1 where no image of a class is recognised: there the repository
   divides by zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(
    label="FRS (one-shot)",
    needs=frozenset({"gradient", "labels"}),
    selection="global",
    tasks=frozenset({"classification"}),
)


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    images: Annotated[
        int | None, Field(ge=1, description="how many images are read, the first ones; if left out all, as in the paper")
    ] = None,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `seed` is not read. A layer that no logit depends on scores 0.

    Args:
        model: a classification network in eval mode.
        batches: of images and labels.
        seed: not read.
        images: see its description.

    Raises:
        FgpError: `batches` is empty, the network or the labels do not fit (see fgp/scoring/relevance.py).
    """
    import torch

    from fgp.errors import FgpError
    from fgp.layers import convolutions
    from fgp.scoring.relevance import channel_relevances

    left = images
    sums = {}
    counts = correct = torch.zeros(())
    for pictures, labels in batches:
        logits, relevances = channel_relevances(model, pictures[:left], labels[:left])
        labels = labels[:left].to(logits.device, torch.int64)
        members = torch.nn.functional.one_hot(labels, logits.shape[1]).double()
        counts = counts.to(members) + members.sum(0)
        correct = correct.to(members) + members[logits.argmax(1) == labels].sum(0)
        for name, relevance in relevances.items():
            sums[name] = sums.get(name, 0) + members.T @ relevance.double()
        left = None if left is None else left - len(labels)
        if left == 0:
            break
    if not counts.any():
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    shown = counts > 0
    accuracy = correct[shown] / counts[shown]
    ratios = torch.where(accuracy > 0, accuracy.max() / accuracy, torch.inf)
    weights = (ratios.sigmoid() / counts[shown])[:, None]
    scores = {}
    for name, layer in convolutions(model).items():
        total = (weights * sums[name][shown]).mean(0).abs() if name in sums else torch.zeros(layer.out_channels)
        scores[name] = (total / (total.norm() + 1e-9)).float().cpu()
    return scores


score = checked(score)
