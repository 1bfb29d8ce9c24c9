"""L1: the sum of the absolute weights of a filter.

Paper: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv 1608.08710), Section 3.1.
Equation: s[i] = sum over input channels and kernel positions of |W[i, c, u, v]|.
Official repository: none by the authors; Eric-mingjie/rethinking-network-pruning, cifar/l1-norm-pruning, is the usual reference.
Reads the channel: the weights of the convolution, without bias or batch normalisation.
Deviations:
1. The paper sets a ratio a layer by hand, from its sensitivity; here the selection is shared (the same ratio in every layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="L1", needs=frozenset({"weights"}))


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `batches` and `seed` are not read."""
    from fgp.layers import convolutions

    return {name: layer.weight.detach().abs().sum((1, 2, 3)).float().cpu() for name, layer in convolutions(model).items()}
