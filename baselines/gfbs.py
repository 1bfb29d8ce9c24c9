"""GFBS: gradient-flow saliency, from the scale of batch normalisation, its gradient, and the signed shift.

Paper: Liu et al. 2021, "Exploring Gradient Flow Based Saliency for DNN Model Compression" (arXiv 2110.12477); extended in 2023 as
"Generalized gradient flow based saliency for pruning deep convolutional neural networks".
Equation: s[c] = |gamma[c]| / ||gamma|| * |dgamma[c]| / ||dgamma|| + 0.05 beta[c] / ||beta||, L2 norms over the layer, dgamma the
gradient of one batch's mean cross-entropy. Convolutions that write into one residual stream share their score: each of the
three normalised vectors is averaged over them first. One ranking over all layers.
Official repository: CityU-AIM-Group/GFBS (gfbs_cifar.py, gfbs_imagenet.py).
Reads the channel: the scale and shift of the batch normalisation that takes the convolution's output, in training mode.
Deviations:
1. The repository averages over the last convolutions of the blocks of a ResNet-50 stage, by name; here over every convolution
   that shares the channels, the shortcut's too. A group of coupled convolutions that can never be pruned is not averaged.
2. A shared score is divided by the number of layers that share it, because the suite sums over them: a channel of the group then
   enters the ranking with the score above, as in the repository.
3. The batch is not augmented. Only the normalisation is in training mode: no dropout.
4. The repository can fine-tune after every pruned layer; here all channels go at once.
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
    label="GFBS",
    needs=frozenset({"weights", "gradient", "labels"}),
    selection="global",
    tasks=frozenset({"classification"}),
    paper_name="GFBS",
)

TINY = 1e-300  # least norm that is divided by: a vector of zeros stays zeros


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    beta_weight: Annotated[float, Field(ge=0, description="weight of the shift")] = 0.05,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, possibly negative.

    The first batch is read, `seed` is not.

    Raises:
        FgpError: `batches` is empty, the labels do not fit, the loss is not finite, or a convolution is followed by no
            normalisation with a scale.
    """
    import torch
    from torch.nn.functional import normalize

    from fgp.scoring.checks import place
    from fgp.scoring.losses import sample_losses
    from fgp.scoring.norms import norm_gradients, with_output_layers
    from fgp.surgery import Structure

    norms = next(norm_gradients(model, batches, lambda returned, labels: sample_losses(returned, labels).mean(), training=True))
    vectors = {
        name: torch.stack([normalize(v.double(), dim=0, eps=TINY) for v in (norm.gamma.abs(), norm.dgamma.abs(), norm.beta)])
        for name, norm in norms.items()
    }
    scores = {name: gamma * dgamma + beta_weight * beta for name, (gamma, dgamma, beta) in vectors.items()}
    images = place(next(iter(batches))[0], model)
    for group in Structure(model, images, tied=True).prunable:
        gamma, dgamma, beta = torch.stack([vectors[name] for name in group.members]).mean(0)
        for name in group.members:
            scores[name] = (gamma * dgamma + beta_weight * beta) / len(group.members)
    return with_output_layers(model, scores)


score = checked(score)
