"""FPEI: the average entropy of a channel's feature maps, seen as 8-bit images.

Paper: Wang et al. 2021, "Filter pruning with a feature map entropy importance criterion for convolution neural networks
compressing" (Neurocomputing, doi 10.1016/j.neucom.2021.07.034; no arXiv version). Only the abstract is public, no formula.
Equation: s[c] = mean over images of -sum over bins b of p[b] log2 p[b], where p[b] is the share of the map's positions with
floor(255 (F - min F) / (max F - min F)) = b, b = 0 to 255. A constant map has entropy 0.
Official repository: none.
Reads the channel: behind the convolution's batch normalisation and ReLU, in eval mode.
Deviations:
1. The grey levels, the 256 bins, the place where the map is read and the mean over images are ours; the authors only say that a
   channel counts by the entropy of its maps, and a figure of theirs suggests 8-bit histograms.
2. The same ratio in every layer, as the selection is shared; their strategy for ResNets ("DR") is not public, so there only the
   channels inside the blocks are pruned, as for every method.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(
    label="FPEI",
    needs=frozenset({"forward"}),
    tasks=frozenset({"classification"}),
    paper_name="FPEI",
    approximate="the abstract names the entropy of feature maps; 8-bit grey levels, 256 bins, after ReLU and the mean are ours",
)


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, entropies in bits between 0 and 8.

    All of `batches` is read but the labels; `seed` is not. A layer without normalisation or ReLU behind it is read as it is; one
    that is not called in eval mode scores 0.

    Raises:
        FgpError: see `fgp.scoring.passes.feature_maps`.
    """
    from fgp.layers import convolutions
    from fgp.scoring.passes import feature_maps

    sums = {name: layer.weight.new_zeros(layer.out_channels) for name, layer in convolutions(model).items()}

    def read(name: str, maps: Tensor, _: Tensor) -> None:
        sums[name] = sums[name] + _entropies(maps).double().sum(0)

    images = feature_maps(model, batches, read, after_relu=True)
    return {name: (total / images).float().cpu() for name, total in sums.items()}


def _entropies(maps: Tensor) -> Tensor:
    """Return the entropy in bits of the grey levels of every map: (N, C, H, W) to (N, C).

    As a mean over positions in place of bins: log2(H W) - mean of log2(how many positions have the level of this one).
    """
    import torch

    values = maps.flatten(2)
    low, high = values.aminmax(dim=2, keepdim=True)
    levels = ((values - low) / (high - low).where(high > low, 1) * 255).long()
    one = torch.ones((), dtype=torch.int32, device=maps.device)
    histograms = one.new_zeros(*maps.shape[:2], 256).scatter_add_(2, levels, one.expand_as(levels))
    return (math.log2(values.shape[2]) - histograms.gather(2, levels).float().log2().mean(2)).clamp(min=0)
