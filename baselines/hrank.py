"""HRank: the average rank of a channel's feature maps; a map of low rank carries little information.

Paper: Lin et al. 2020, "HRank: Filter Pruning using High-Rank Feature Map" (arXiv 2002.10179), Section 3.
Equation: s[c] = mean over images of rank(F[n,c]), F[n,c] the H x W map as a matrix.
Official repository: lmbxmu/HRank (rank_generation.py).
Reads the channel: behind the convolution's batch normalisation and ReLU, in eval mode.
Deviations:
1. The paper prunes and fine-tunes layer by layer, at ratios set by hand for each layer; here the dense network is scored once and
   selection and fine-tuning are shared (the same ratio in every layer).
2. In ResNets the repository reads the first convolution behind the max-pooling, and the last one of a block and its shortcut
   behind their sum; here each convolution is read before either. Layers on a sum are left whole by default.
3. The repository's 5 batches hold 128 training images each; here the batches are as given, 5 at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="HRank", needs=frozenset({"forward"}), paper_name="HRank")


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    most_batches: Annotated[int, Field(ge=1, description="batches that are read, the first ones")] = 5,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, ranks between 0 and min(H, W).

    A layer without normalisation or ReLU behind it is read as it is; one that is not called in eval mode scores 0.

    Args:
        model: a network in eval mode, left as it was.
        batches: of images and labels; the first `most_batches` are read, labels are not.
        seed: not read.
        most_batches: see its description.

    Raises:
        FgpError: see `fgp.scoring.passes.feature_maps`.
    """
    import torch

    from fgp.layers import convolutions
    from fgp.scoring.passes import feature_maps
    from fgp.scoring.rank import matrix_ranks

    sums = {name: layer.weight.new_zeros(layer.out_channels, dtype=torch.int64) for name, layer in convolutions(model).items()}

    def read(name: str, maps: Tensor, _: Tensor) -> None:
        sums[name] = sums[name] + matrix_ranks(maps).sum(0)

    images = feature_maps(model, batches, read, after_relu=True, most_batches=most_batches)
    return {name: (total.double() / images).float().cpu() for name, total in sums.items()}


score = checked(score)
