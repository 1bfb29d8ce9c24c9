"""FPGM: distance of a filter to all filters of its layer; a filter near the geometric median is replaceable.

Paper: He et al. 2019, "Filter Pruning via Geometric Median" (arXiv 1811.00250), Equations 4 to 7.
Equation: s[i] = sum over j of ||W[i] - W[j]||_2, with the filters flattened.
Official repository: he-y/filter-pruning-geometric-median.
Reads the channel: the weights of the convolution, without bias or batch normalisation.
Deviations:
1. The paper prunes softly, after every epoch of training, and mixes in a share of norm-based pruning; here the dense network is
   scored once and selection and fine-tuning are shared.
2. Distances are computed by the expansion ||a||^2 + ||b||^2 - 2ab, in float64, so that close filters keep their digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="FPGM", needs=frozenset({"weights"}), paper_name="FPGM")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `batches` and `seed` are not read."""
    import torch

    from fgp.layers import convolutions

    scores = {}
    for name, layer in convolutions(model).items():
        filters = layer.weight.detach().flatten(1).double()
        distances = torch.cdist(filters, filters, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0)
        scores[name] = distances.sum(1).float().cpu()
    return scores
