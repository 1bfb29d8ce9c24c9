"""Random: independent uniform scores, the control that every criterion has to beat.

Paper: Section 5.4 of FGP (arXiv 2411.12781) uses a random choice of channels as its control; Mittal et al. 2018 (arXiv
1801.10447) show how strong it is after fine-tuning.
Equation: s[c] ~ U(0, 1), independent for every channel of every layer.
Official repository: none, there is nothing to compute.
Reads the channel: nowhere.
Deviations:
1. A layer's scores depend on the seed and on the layer's name only, so that adding a layer elsewhere does not change them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="Random", needs=frozenset({"seed"}))


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return uniform scores in [0, 1): {layer: float32 (C_out,)}; `batches` is not read."""
    import torch

    from fgp.layers import convolutions

    scores = {}
    for name, layer in convolutions(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        scores[name] = torch.rand(layer.out_channels, generator=generator)
    return scores
