"""FGP: feature-map and gradient importance, `fgp.score`.

Paper: "Feature-Gradient-Prune" (arXiv 2411.12781), Equations 6 to 9; the gaps are closed as `fgp.scoring` documents.
Equation: I[c] = sum over images n, active classes d and positions of ReLU(alpha[n,c,d] F[n,c]), alpha = spatial mean of
dy[n,d]/dF[n,c].
Official repository: FGP-code/FGP, which does not run.
Reads the channel: the output of the convolution, before batch normalisation; option feature=postrelu reads after it and the ReLU.
Deviations:
1. Equation 6 as printed sums over the channels, which gives every channel of a layer one score; the text and Figure 2 do not.
2. No resizing, normalisation or 8-bit quantisation of the maps; the options of `fgp.score` switch variants on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from fgp.methods import Method
from fgp.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="FGP", needs=frozenset({"weights", "forward", "gradient", "labels"}), selection="cumulative")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int, **options: Unpack[Variant]) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `options` are the variants of `fgp.score`, `seed` is not read.

    Raises:
        FgpError: an option or its value does not exist, or see `fgp.score`.
    """
    from fgp.scoring.engine import importance

    return {name: scores.float() for name, scores in importance(model, batches, Variant.of(options)).items()}
