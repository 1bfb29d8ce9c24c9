"""The importance of one batch: (N, C) from feature maps (N, C, H, W) and gradients of the same shape, by variant.

The canonical form needs no heat map. As alpha is constant over the positions,

    sum over (u,v) of ReLU(alpha F) = max(alpha, 0) * sum of ReLU(F) + max(-alpha, 0) * sum of ReLU(-F),

so that two sums a channel are kept in place of F.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fgp.variants import Variant

_SCRATCH = 1 << 20
"""Entries of the buffer in which a feature map is rectified piece by piece on the CPU: small enough to stay in the cache."""


@dataclass(frozen=True)
class Sums:
    """Of a feature map over its positions: the sum of ReLU(F) and of ReLU(-F), each (N, C)."""

    positive: Tensor
    negative: Tensor

    @classmethod
    def of(cls, feature: Tensor) -> Self:
        """Sum over the positions of (N, C, H, W)."""
        if feature.device.type != "cpu":
            return cls(feature.clamp(min=0).sum((2, 3)), -feature.clamp(max=0).sum((2, 3)))
        maps = feature.flatten(0, 1).flatten(1)
        pieces = maps.split(max(1, _SCRATCH // maps.shape[1]))
        scratch, sums = torch.empty_like(pieces[0]), maps.new_empty(2, len(maps))
        for piece, positive, negative in zip(pieces, *(half.split(len(scratch)) for half in sums), strict=True):
            rectified = scratch[: len(piece)]
            torch.sum(torch.clamp(piece, min=0, out=rectified), 1, out=positive)
            torch.sum(torch.clamp(piece, max=0, out=rectified), 1, out=negative)
        return cls(*(half.view(feature.shape[:2]) for half in (sums[0], -sums[1])))

    @classmethod
    def cat(cls, parts: Iterable[Self]) -> Self:
        """Join along the channels."""
        return cls(*(torch.cat(halves, 1) for halves in zip(*((part.positive, part.negative) for part in parts), strict=True)))


def keep(feature: Tensor, variant: Variant) -> Sums | Tensor:
    """Return what `importance` needs of a feature map: `Sums`, or a copy of the map where the variant needs it."""
    if variant.evidence == "gradient":
        feature = feature.new_ones(()).expand_as(feature)
    if variant.needs_maps:
        return feature if variant.evidence == "gradient" else feature.clone()
    return Sums.of(feature)


def checksum(kept: Sums | Tensor) -> Tensor:
    """Return a scalar that is finite only if the feature map was."""
    return kept.sum() if isinstance(kept, Tensor) else (kept.positive + kept.negative).sum()


def importance(kept: Sums | Tensor, gradient: Tensor | None, variant: Variant) -> Tensor:
    """Return the sum over (u,v) of M[n,c,d], (N, C), for the one class d of each image that `gradient` belongs to.

    Args:
        kept: of `keep`.
        gradient: (N, C, H, W), or for `Sums` alpha (N, C); None: alpha = 1.
        variant: which formula.
    """
    if isinstance(kept, Sums):
        return _from_sums(kept, kept.positive.new_ones(()) if gradient is None else gradient, variant.form)
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
