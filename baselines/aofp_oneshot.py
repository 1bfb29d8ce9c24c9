"""AOFP (one-shot): a binary search, by random ablations, for the filters that the next layer's output misses least.

Paper: Ding et al. 2019, "Approximated Oracle Filter Pruning for Destructive CNN Width Optimization" (arXiv 1905.04748).
Equation: t = sum of (base - ablated)^2 / sum of base^2 at the next layer's output. In a round, half (rounded down) of the
competing filters S is ablated at random, `iterations` times, each on a batch; a filter's damage is the mean t of the halves it
was in. The half (rounded down) with the least damage is the S of the next round, down to one. s = damages in the search's order.
Official repository: DingXiaoH/AOFP (aofp/aofp_conv.py, aofp/aofp_train.py).
Reads the channel: where the next layer reads it; the damage behind that layer's batch normalisation and ReLU.
Deviations:
1. The paper masks the found filters while it trains (`aofp`); here the dense network is searched once, in eval mode, on training
   images without augmentation, and selection and fine-tuning are shared.
2. Order: a filter that left the search in an earlier round ranks above those that stayed, within a round by damage. The layer's
   damages, each of the filter's last round, are sorted into that order; they almost are, as halves shrink.
3. The same ratio in every layer. The paper compares damages of all layers with one threshold, but only those of filters that go
   together and on the network already masked; the filters that leave in the first round were never ablated as one.
4. The next layer's output is taken where it is linear, too (the logits of VGG-16 here, a hidden layer there). Where several
   layers read a filter (ours), both sums run over all of them. Convolutions that share channels (ours; the paper prunes inside
   the blocks of ResNets) are searched as one, and the score is divided among them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.errors import FgpError
from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from fgp.surgery import Structure

METHOD = Method(label="AOFP (one-shot)", needs=frozenset({"forward", "seed"}), tasks=frozenset({"classification"}))


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    iterations: Annotated[int, Field(ge=1, description="ablations a round and layer, spread evenly over the images")] = 1000,
    images: Annotated[int, Field(ge=1, description="at most so many images an ablation")] = 64,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, mean damages; ones where no channel, or all but one, can be removed.

    Costs log2(C_out) rounds of one pass over `batches` and `iterations` passes of `images` through each layer.

    Args:
        model: a network in eval mode, left as it was.
        batches: of images and labels; the labels are not read.
        seed: of the ablations. They follow the order of the filters' norms, so that they do not depend on the filters' numbers.
        iterations, images: see their descriptions.

    Raises:
        FgpError: `batches` is empty, or a feature map is not finite.
    """
    import torch

    from fgp.layers import convolutions
    from fgp.scoring.checks import check_model, example_of
    from fgp.surgery import Structure

    check_model(model)
    example = example_of(model, batches)
    structure = Structure(model, example, tied=True)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(example.device.type, enabled=False):
        found = _search(model, structure, batches, seed, iterations, images)
    scores = {name: torch.ones(layer.out_channels) for name, layer in convolutions(model).items()}
    for group in structure.prunable:
        if group.leader in found:
            units, damages = torch.tensor(found[group.leader], dtype=torch.float64).T
            damages = damages.clamp(max=damages[damages.isfinite()].max()).sort().values
            values = damages[units.argsort()].repeat_interleave(group.unit) / len(group.members)
            scores.update(dict.fromkeys(group.members, values.float()))
    return scores


score = checked(score)


def _search(
    model: nn.Module,
    structure: Structure,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    iterations: int,
    images: int,
) -> dict[str, list[tuple[int, float]]]:
    """Return, for each group of at least two units, (unit, mean damage in its last round), the least important first."""
    import torch

    from fgp.scoring.ablation import Ablations, Round
    from fgp.scoring.checks import place

    def parts() -> Iterable[Tensor]:
        return (part for batch, _ in batches for part in place(batch, model).split(images))

    count, example = sum(1 for _ in parts()), next(parts())
    shares = [(iterations + part) // count for part in range(count)]
    rounds, generators, found = {}, {}, {}
    for group in structure.prunable:
        units, leader = group.channels // group.unit, group.leader
        if units > 1:
            norms = model.get_submodule(leader).weight.reshape(units, -1).norm(dim=1)
            rounds[leader], found[leader] = Round(norms.argsort().cpu(), units, example.device), []
            generators[leader] = torch.Generator().manual_seed(zlib.crc32(f"{seed} {leader}".encode()))
    with Ablations(structure, model, example) as ablations:
        while rounds:
            for share, part in zip(shares, parts(), strict=True):
                if share:
                    ablations.chosen = {leader: turn.draw(generators[leader], share) for leader, turn in rounds.items()}
                    model(part)
                    for leader, damages in ablations.take().items():
                        rounds[leader].credit(ablations.chosen[leader], damages)
            for leader, turn in list(rounds.items()):
                ranked, means = turn.ranked()
                if means.isnan().any():
                    raise FgpError(f"{leader}: its damage is NaN; check the weights and the normalisation of the images")
                half = len(ranked) // 2
                stay = half if half > 1 else 0
                found[leader] = [*zip(ranked[stay:].tolist(), means[stay:].tolist(), strict=True), *found[leader]]
                if stay:
                    rounds[leader] = Round(ranked[:stay], units=turn.units, device=example.device)
                else:
                    del rounds[leader]
    return found
