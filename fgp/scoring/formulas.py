"""The importance of one batch: (N, C) from feature maps (N, C, H, W) and gradients of the same shape, by variant.

The canonical form needs no heat map. As alpha is constant over the positions,

    sum over (u,v) of ReLU(alpha F) = max(alpha, 0) * sum of ReLU(F) + max(-alpha, 0) * sum of ReLU(-F),

so that two sums a channel are kept in place of F.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgp.scoring.variants import Variant


@dataclass(frozen=True)
class Sums:
    """Of a feature map over its positions: the sum of ReLU(F) and of ReLU(-F), each (N, C)."""

    positive: Tensor
    negative: Tensor


def keep(feature: Tensor, variant: Variant) -> Sums | Tensor:
    """Return what `importance` needs of a feature map: `Sums`, or a copy of the map where the variant needs it."""
    if variant.evidence == "gradient":
        feature = feature.new_ones(()).expand_as(feature)
    if variant.needs_maps:
        return feature if variant.evidence == "gradient" else feature.clone()
    return Sums(feature.clamp(min=0).sum((2, 3)), -feature.clamp(max=0).sum((2, 3)))


def checksum(kept: Sums | Tensor) -> Tensor:
    """Return a scalar that is finite only if the feature map was."""
    return kept.sum() if isinstance(kept, Tensor) else (kept.positive + kept.negative).sum()


def importance(kept: Sums | Tensor, gradient: Tensor | None, variant: Variant) -> Tensor:
    """Return the sum over (u,v) of M[n,c,d], (N, C), for the one class d of each image that `gradient` belongs to.

    Args:
        kept: of `keep`.
        gradient: (N, C, H, W); None: alpha = 1.
        variant: which formula.
    """
    if isinstance(kept, Sums):
        alpha = kept.positive.new_ones(()) if gradient is None else gradient.mean((2, 3))
        return _from_sums(kept, alpha, variant.form)
    weight = kept.new_ones(()) if gradient is None else gradient
    if gradient is not None and variant.form != "elementwise":
        weight = gradient.mean((2, 3), keepdim=True)
    heat = weight * kept
    heat = heat.abs() if variant.form == "abs" else heat.clamp(min=0)
    return _NORMALISE[variant.normalise](heat).sum((2, 3))


def _from_sums(sums: Sums, alpha: Tensor, form: str) -> Tensor:
    if form == "gapfirst":
        return (alpha * (sums.positive - sums.negative)).clamp(min=0)
    if form == "abs":
        return alpha.abs() * (sums.positive + sums.negative)
    return alpha.clamp(min=0) * sums.positive - alpha.clamp(max=0) * sums.negative


def _minmax_u8(heat: Tensor) -> Tensor:
    low = heat.amin((2, 3), keepdim=True)
    spread = heat.amax((2, 3), keepdim=True) - low
    steps = (255 * ((heat - low) / spread)).floor()
    return torch.where(spread > 0, steps, 0) / 255


def _jointmax(heat: Tensor) -> Tensor:
    most = heat.amax((1, 2, 3), keepdim=True)
    return torch.where(most > 0, heat / most, 0)


_NORMALISE = {None: lambda heat: heat, "minmax_u8": _minmax_u8, "jointmax": _jointmax}
