"""ThiNet: remove first the channels that, together, matter least to the outputs of the next layer; then rescale what stays.

Paper: Luo et al. 2017, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression" (arXiv 1707.06342).
Equation: an output i of the next layer, less its bias, is the sum over channels c of x[i,c]. The removed set T grows greedily, by
the channel that makes the sum over i of (sum over c in T of x[i,c])^2 smallest; s[c] = how many channels were removed before c.
Then the next layer's weights of each kept channel are multiplied by w[c], which minimise the sum over i of
(sum over kept c of w[c] x[i,c] - sum over all c of x[i,c])^2 (Section 3.2).
Official repository: Roll920/ThiNet_Code (ThiNet_ICCV/compress_model.py).
Reads the channel: where the next layer reads it (behind batch normalisation, ReLU and pooling), through that layer's weights.
Deviations:
1. The paper removes, rescales and fine-tunes layer by layer; here all layers are scored and rescaled once, on the dense network,
   and selection and fine-tuning are shared (the same ratio in every layer).
2. The paper samples 10 outputs (filter and position at random) of each of 10 images a class; here 10 of each of the first 1000
   images.
3. Where several layers read a channel (ours), the sum is over the outputs of all, and each reader has its own w. Layers that
   share their channels share the order, divided among them so that their sum is the order.
4. Both steps need only the products sum over i of x[i,c] x[i,d], kept in float64 in place of the samples. Where these leave w
   open (a channel that is always 0), it stays as near to 1 as possible.
5. The journal version's choice, which grows the kept set by least squares, is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn

METHOD = Method(label="ThiNet", needs=frozenset({"forward", "seed"}))

Images = Annotated[int, Field(ge=1, description="images that are read, the first ones")]
Positions = Annotated[int, Field(ge=1, description="outputs sampled an image and layer")]


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    images: Images = 1000,
    positions: Positions = 10,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, 0 for the channel that goes first; ones where no channel can be removed.

    Args:
        model: a network in eval mode, left as it was.
        batches: of images and labels; the labels are not read.
        seed: of the sampled outputs.
        images, positions: see their descriptions.

    Raises:
        FgpError: `batches` is empty, a transposed convolution reads channels that could be removed, or a feature map is not
            finite.
    """
    import torch

    from fgp.layers import convolutions
    from fgp.scoring.contributions import products

    structure, found = products(model, batches, seed, images, positions)
    scores = {name: torch.ones(layer.out_channels) for name, layer in convolutions(model).items()}
    for group in structure.prunable:
        if readers := found[group.leader]:
            order = removal_order(sum(readers.values()))
            scores |= {member: (order / len(group.members)).float().cpu() for member in group.members}
    return scores


score = checked(score)


def repair(
    model: nn.Module,
    plan: Mapping[str, Sequence[int]],
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    images: Images = 1000,
    positions: Positions = 10,
) -> nn.Module:
    """Return a copy of the dense network in which the weights that read a kept channel are multiplied by its w.

    Args:
        model, batches, seed, images, positions: as in `score`; the same seed takes the same samples.
        plan: {layer: kept indices}, of layers that do lose their other channels.

    Raises:
        FgpError: as `score`, or a plan that does not fit the network.
    """
    import copy

    import torch

    from fgp.scoring.contributions import products

    structure, found = products(model, batches, seed, images, positions)
    repaired = copy.deepcopy(model)
    for leader, kept in structure.applied(plan).items():
        readers = structure.consumers(leader)
        for name, product in found[leader].items():
            places, factors = readers[name][kept], least_squares(product, kept)
            every = factors.repeat_interleave(places.shape[1])
            weight = repaired.get_submodule(name).weight
            with torch.no_grad():
                weight[:, places.flatten()] *= every.to(weight.dtype).view(-1, *[1] * (weight.ndim - 2))
    return repaired


repair = checked(repair)


def removal_order(product: Tensor) -> Tensor:
    """Return the place of each channel in the greedy removal, (C,), from x^T x, (C, C).

    With `current` the sum of the removed x, adding f costs |f|^2 + 2 f current more than |current|^2, which is the same for all.
    """
    import torch

    cost, order = product.diagonal().clone(), product.new_empty(len(product))
    for place in range(len(product)):
        first = cost.argmin(keepdim=True)
        order[first] = place
        cost += 2 * product[first][0]
        cost[first] = torch.inf
    return order


def least_squares(product: Tensor, kept: Sequence[int]) -> Tensor:
    """Return w of the kept channels, (kept,), from x^T x, (C, C): 1 + the smallest solution for what the removed ones leave."""
    import torch

    removed = torch.ones(len(product), dtype=torch.bool, device=product.device)
    removed[kept] = False
    rows = product[kept]
    return 1 + torch.linalg.pinv(rows[:, kept], hermitian=True) @ rows[:, removed].sum(1)
