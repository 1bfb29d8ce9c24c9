"""Taylor-BN: the score of Taylor from the parameters of batch normalisation alone.

Paper: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), Taylor-FO on BN parameters.
Equation: s[c] = sum over batches of (gamma[c] dgamma[c] + beta[c] dbeta[c])^2, dgamma and dbeta the gradients of the batch's mean
cross-entropy. A gate on gamma x + beta has exactly this gradient, so the scores are those of `taylor`.
Official repository: NVlabs/Taylor_pruning (pruning_engine.py, method 31).
Reads the channel: the scale and shift of the batch normalisation that takes the convolution's output.
Deviations:
1. One shot, in eval mode, summed where the repository averages, segmentation: as in `taylor`, deviations 1, 2, 3 and 5.
2. A convolution without normalisation whose channels are the logits of a segmentation network scores 1: it is never pruned. Any
   other without normalisation is refused; `taylor` scores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="Taylor-BN", needs=frozenset({"weights", "gradient", "labels"}), selection="global")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `seed` is not read. A layer that does not run in eval mode (auxiliary head) scores 0.

    Raises:
        FgpError: `batches` is empty, the labels do not fit, the loss is not finite, or a convolution inside the network is
            followed by no normalisation with a scale.
    """
    from fgp.scoring.losses import sample_losses
    from fgp.scoring.norms import norm_gradients, with_output_layers

    scores = {}
    for norms in norm_gradients(model, batches, lambda returned, labels: sample_losses(returned, labels).mean()):
        for name, norm in norms.items():
            change = norm.gamma * norm.dgamma + norm.beta * norm.dbeta
            scores[name] = scores.get(name, 0) + change.double() ** 2
    return with_output_layers(model, scores)
