"""GT (Gate Trimming): how much the entropy of the network's outputs changes when a channel is switched off.

Paper: Yu et al. 2021, "Gate Trimming: One-Shot Channel Pruning for Efficient Convolutional Neural Networks" (ICASSP, not arXiv).
Equation: H = mean over images and classes of -p log p, p the softmax of the logits (no labels); s[c] = information gain
= |gamma[c] dH/dgamma[c] + beta[c] dH/dbeta[c]|, on the first batch. One ranking over all layers, a layer's last filter stays.
Official repository: Fangyu-ict/GateTrimming (pruning_cifar.py).
Reads the channel: the scale and shift of the batch normalisation that takes the convolution's output, in training mode.
Deviations:
1. The first batch is not augmented. Only the normalisation is in training mode: no dropout.
2. Segmentation (ours): H is a mean over pixels too, those labelled void included, as no label is read.
3. The repository leaves convolutions that write into a residual sum whole, as is the default here; where they are pruned, their
   scores are summed.
4. A convolution without normalisation whose channels are the logits of a segmentation network scores 1: it is never pruned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="GT", needs=frozenset({"weights", "gradient"}), selection="global", paper_name="GT")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; the images of the first batch are read, labels and `seed` are not.

    Raises:
        FgpError: `batches` is empty, the outputs are not finite, or a convolution inside the network is followed by no
            normalisation with a scale.
    """
    from fgp.scoring.logits import pick_logits
    from fgp.scoring.losses import sample_entropies
    from fgp.scoring.norms import norm_gradients, with_output_layers

    def entropy(returned: Tensor, labels: Tensor) -> Tensor:
        logits = pick_logits(returned, None)
        return sample_entropies(logits).mean() / logits.shape[1]

    norms = next(norm_gradients(model, batches, entropy, training=True))
    gains = {name: (norm.gamma * norm.dgamma + norm.beta * norm.dbeta).abs() for name, norm in norms.items()}
    return with_output_layers(model, gains)
