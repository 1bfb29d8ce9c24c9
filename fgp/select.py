"""Choosing the channels that stay, from scores.

Every function takes scores {layer: tensor (C_out,)}, high = keep, and returns a plan {layer: sorted kept indices}; each layer
keeps at least one channel and ties go to the lower index. Choose from scores that `fgp.prunable` returns: layers that stay whole
are absent there, and coupled layers are one entry.

Two arguments round the number of channels of every layer up; the further ones are the next in the selection's own order:

- `multiple`: a layer keeps a multiple of this many channels, or all where that is more than it has.
- `units`: {layer: this many neighbouring channels stay or go as one} (`fgp.groups.Group.unit`), 1 for layers not named; they keep
  whole units, a multiple of the least common multiple of both.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.selections import CLOSE_ENOUGH, RULES, Selection, check_pool, check_share, parse, portion
from fgp.surgery import Plan, Scores, Structure

__all__ = [
    "Selection", "bottom", "bottom_rand", "choose", "count", "cumulative", "global_threshold", "match_budget", "match_macs",
    "parse", "peak", "peak_rand", "rand",
]  # fmt: skip

Units = Mapping[str, int] | None

_ROUNDING = 1e-12


def choose(selection: Selection, scores: Scores, structure: Structure, seed: int = 0, rule: str = "cumulative") -> Plan:
    """Choose channels as the name of a selection says.

    Args:
        selection: what `parse` returns.
        scores: of single convolutions; they are gathered by group here.
        structure: the network's.
        seed: for the random selections.
        rule: how macs chooses, one of `RULES`.

    Raises:
        FgpError: see the functions below.
    """
    value, multiple = selection.value, selection.multiple
    if selection.kind == "macs":
        return match_budget(scores, structure, value, rule, multiple)
    gathered = structure.gather(scores)
    units = {group.leader: group.unit for group in structure.prunable}
    if selection.kind == "rand":
        return rand(gathered, value, seed, multiple, units)
    if selection.of is not None:
        pick = peak_rand if selection.kind == "peak-rand" else bottom_rand
        return pick(gathered, value, selection.of, seed, selection.base, multiple, units)
    plain = {"cumulative": cumulative, "count": count, "global": global_threshold, "peak": peak, "bottom": bottom}
    return plain[selection.kind](gathered, value, multiple, units)


def cumulative(scores: Scores, k: float, multiple: int = 1, units: Units = None) -> Plan:
    """Keep the smallest prefix, by descending score, whose sum reaches `k` of the layer's total (FGP, Section 5.4).

    The channel that crosses the threshold stays. k = 1 keeps every positive channel and drops those of score 0. A layer whose
    scores are all 0 keeps its first channel. Sums are float64, equality up to 1e-12 of the total.

    Raises:
        FgpError: k outside (0, 1]; scores not finite or negative.
    """
    check_share(k, "k")
    chosen = {}
    for name, values in _checked(scores, signed=False).items():
        order = _descending(values)
        sums = values[order].cumsum(0)
        number = int((values > 0).sum() if k == 1 else (sums < k * sums[-1] * (1 - _ROUNDING)).sum() + 1)
        chosen[name] = order, max(1, number)
    return _kept(chosen, multiple, units)


def count(scores: Scores, k: float, multiple: int = 1, units: Units = None) -> Plan:
    """Keep the ceil(k C) best channels of each layer (FGP, Eq. 11).

    Raises:
        FgpError: k outside (0, 1]; scores not finite.
    """
    check_share(k, "k")
    return _kept({name: (_descending(v), portion(k, len(v))) for name, v in _checked(scores).items()}, multiple, units)


def global_threshold(scores: Scores, share: float, multiple: int = 1, units: Units = None) -> Plan:
    """Keep the best ceil(share N) of all N channels of the network, and the best of each layer whatever its score.

    Ties go to the earlier layer, then to the lower index.

    Raises:
        FgpError: share outside (0, 1]; scores not finite.
    """
    check_share(share, "share")
    checked = _checked(scores)
    if not checked:
        return {}
    best = _descending(torch.cat(list(checked.values())))
    kept = torch.zeros(len(best), dtype=torch.bool)
    kept[best[: portion(share, len(best))]] = True
    masks = kept.split([len(values) for values in checked.values()])
    chosen = {
        name: (_descending(values), max(1, int(mask.sum()))) for (name, values), mask in zip(checked.items(), masks, strict=True)
    }
    return _kept(chosen, multiple, units)


def peak(scores: Scores, k: float, multiple: int = 1, units: Units = None) -> Plan:
    """Keep the ceil(k C) best channels of each layer: the `Peak k` of the paper's Fig. 4, the same choice as `count`."""
    return count(scores, k, multiple, units)


def bottom(scores: Scores, k: float, multiple: int = 1, units: Units = None) -> Plan:
    """Keep the ceil(k C) worst channels of each layer (the paper's Fig. 4); ties go to the higher index here.

    Raises:
        FgpError: k outside (0, 1]; scores not finite.
    """
    check_share(k, "k")
    return _kept({name: (_descending(v).flip(0), portion(k, len(v))) for name, v in _checked(scores).items()}, multiple, units)


def rand(scores: Scores, share: float, seed: int, multiple: int = 1, units: Units = None) -> Plan:
    """Keep ceil(share C) channels of each layer at random; of the scores only the lengths count.

    Raises:
        FgpError: share outside (0, 1]; scores not finite.
    """
    check_share(share, "share")
    generator = torch.Generator().manual_seed(seed)
    chosen = {name: (torch.randperm(len(v), generator=generator), portion(share, len(v))) for name, v in _checked(scores).items()}
    return _kept(chosen, multiple, units)


def peak_rand(
    scores: Scores, share: float, of: float = 0.5, seed: int = 0, base: str = "all", multiple: int = 1, units: Units = None
) -> Plan:
    """Keep random channels out of the ceil(of C) best of each layer (the paper's Fig. 4, "30 % from the top 50 %").

    With `multiple`, the whole pool stays where it holds fewer than the rounded number.

    Args:
        scores: see the module.
        share: how many: ceil(share C) with base "all", ceil(share * ceil(of C)) with base "pool".
        of: the pool.
        seed: of the draw.
        base: the paper does not say which; "all" is the suite's reading.
        multiple: see the module.
        units: see the module.

    Raises:
        FgpError: a share outside (0, 1], or more channels than the pool holds; scores not finite.
    """
    return _drawn({name: _descending(v) for name, v in _checked(scores).items()}, share, of, seed, base, multiple, units)


def bottom_rand(
    scores: Scores, share: float, of: float = 0.5, seed: int = 0, base: str = "all", multiple: int = 1, units: Units = None
) -> Plan:
    """Keep random channels out of the ceil(of C) worst of each layer; see `peak_rand`."""
    return _drawn({name: _descending(v).flip(0) for name, v in _checked(scores).items()}, share, of, seed, base, multiple, units)


def match_macs(
    scores: Scores, model: nn.Module, example_input: Tensor, budget: float, rule: str = "cumulative", tied: bool = False,
    multiple: int = 1,
) -> Plan:  # fmt: skip
    """Choose channels so that the pruned network costs `budget` MACs.

    Every rule admits channels in some order as its parameter grows. The plan is the point of that order that is nearest to the
    budget, found by bisection; channels that enter together (`count` takes one in every layer) enter one by one. Where that is
    more than 0.5 % away, the plan just below the budget takes further channels, each the next one of some layer, whatever its
    turn: the one that fills most of the gap. With a `multiple`, channels enter by so many at a time, at the turn of the first.

    Args:
        scores: of single convolutions, as `fgp.score` returns them.
        model: the dense network.
        example_input: tensor (N, C, H, W), the input size at which MACs count.
        budget: a fraction of the dense MACs if at most 1, else MACs of one image.
        rule: "cumulative", "count" or "global".
        tied: see `fgp.prune`.
        multiple: see the module.

    Warns:
        UserWarning: no plan within 0.5 % of the budget was found; the nearest is returned.

    Raises:
        FgpError: the budget is out of reach (the message gives the range), unknown rule, or bad scores.
    """
    return match_budget(scores, Structure(model, example_input, tied), budget, rule, multiple)


def match_budget(scores: Scores, structure: Structure, budget: float, rule: str = "cumulative", multiple: int = 1) -> Plan:
    """Do the work of `match_macs` on a network that is already traced."""
    if rule not in RULES:
        raise FgpError(f"rule {rule!r}: unknown; use one of {', '.join(RULES)}")
    gathered = _checked(structure.gather(scores), signed=rule != "cumulative")
    ranked = {name: _descending(values).tolist() for name, values in gathered.items()}
    steps = {group.leader: _step(multiple, group.unit) for group in structure.prunable}
    queue = _queue(gathered, rule, steps)

    def plan_of(layers: list[str]) -> Plan:
        turns = Counter(layers)
        return structure.applied({name: order[: (1 + turns[name]) * steps[name]] for name, order in ranked.items()})

    dense, least = structure.macs(), least_macs(structure, multiple)
    target = budget * dense if budget <= 1 else budget
    if not least * (1 - CLOSE_ENOUGH) <= target <= dense:
        rounded = f" with multiples of {multiple} channels" if multiple > 1 else ""
        raise FgpError(
            f"budget {budget}: {target:,.0f} MACs cannot be reached{rounded}; pruning reaches {least:,} to {dense:,} MACs "
            f"({least / dense:.4f} to 1 of the dense network)"
        )
    low, high = 0, len(queue)
    while high - low > 1:
        middle = (low + high) // 2
        if structure.macs(plan_of(queue[:middle])) <= target:
            low = middle
        else:
            high = middle

    def distance(plan: Plan) -> float:
        return abs(structure.macs(plan) - target)

    best = min(plan_of(queue[:low]), plan_of(queue[:high]), key=distance)
    if distance(best) > CLOSE_ENOUGH * target:
        best = min(best, _filled_up(plan_of(queue[:low]), ranked, steps, structure, target), key=distance)
    if distance(best) > CLOSE_ENOUGH * target:
        rounded = f" for multiples of {multiple} channels," if multiple > 1 else ""
        warnings.warn(
            f"budget {budget}: the nearest plan has {structure.macs(best):,} MACs instead of {target:,.0f};{rounded} "
            "the layers are too small for a closer one",
            stacklevel=2,
        )
    return best


def least_macs(structure: Structure, multiple: int = 1) -> int:
    """Return the MACs that are left where every layer keeps as few channels as it may: one, or its unit, or `multiple`."""
    fewest = {group.leader: list(range(min(_step(multiple, group.unit), group.channels))) for group in structure.prunable}
    return structure.macs(structure.applied(fewest))


def _filled_up(plan: Plan, ranked: dict[str, list[int]], steps: dict[str, int], structure: Structure, target: float) -> Plan:
    """Add the next step of a layer, always the one that fills most of the gap to `target`, until it is closed or none fits."""
    while target - structure.macs(plan) > CLOSE_ENOUGH * target:
        larger = [
            structure.applied({**plan, name: order[: len(plan[name]) + steps[name]]})
            for name, order in ranked.items()
            if len(plan[name]) < len(order)
        ]
        fitting = [option for option in larger if structure.macs(option) <= target * (1 + CLOSE_ENOUGH)]
        if not fitting:
            break
        plan = max(fitting, key=structure.macs)
    return plan


def _queue(gathered: Scores, rule: str, steps: dict[str, int]) -> list[str]:
    """Return the layers in the order in which a growing parameter of the rule admits their steps, the first ones set apart.

    The channel at rank r of a layer enters `cumulative(k)` once k exceeds the share that the r better ones hold, `count(k)` once
    k exceeds r / C, and `global_threshold` by its score. It takes along those that its layer's step holds behind it. What enters
    together stands by rank, then by layer.
    """
    entries = []
    for position, (name, values) in enumerate(gathered.items()):
        best_first = values[_descending(values)]
        if rule == "cumulative":
            sums = best_first.cumsum(0)
            enters = (sums - best_first) / sums[-1] if sums[-1] > 0 else torch.ones_like(sums)
        elif rule == "count":
            enters = torch.arange(len(best_first), dtype=torch.float64) / len(best_first)
        else:
            enters = -best_first
        step = steps[name]
        entries += [(when, rank, position, name) for rank, when in enumerate(enters.tolist()) if rank > 0 and rank % step == 0]
    return [name for *_, name in sorted(entries)]


def _drawn(orders: Mapping[str, Tensor], share: float, of: float, seed: int, base: str, multiple: int, units: Units) -> Plan:
    check_pool(share, of, base, "share")
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for name, order in orders.items():
        size = portion(of, len(order))
        number = portion(share, len(order) if base == "all" else size)
        chosen[name] = order[torch.randperm(size, generator=generator)], number
    return _kept(chosen, multiple, units)


def _kept(chosen: Mapping[str, tuple[Tensor, int]], multiple: int, units: Units) -> Plan:
    """Keep the first channels of {layer: (order, number)}, the number rounded up; a unit stands where its first channel does."""
    plan = {}
    for name, (order, number) in chosen.items():
        unit = (units or {}).get(name, 1)
        step = _step(multiple, unit)
        channels = [
            channel for place in dict.fromkeys((order // unit).tolist()) for channel in range(place * unit, (place + 1) * unit)
        ]
        plan[name] = sorted(channels[: math.ceil(number / step) * step])
    return plan


def _step(multiple: int, unit: int) -> int:
    """Return by how many channels the number of a layer may grow."""
    if not isinstance(multiple, int) or multiple < 1:
        raise FgpError(f"multiple {multiple!r}: give a whole number of at least 1")
    return math.lcm(multiple, unit)


def _checked(scores: Scores, signed: bool = True) -> Scores:
    checked = {}
    for name, values in scores.items():
        if values.dim() != 1 or len(values) == 0:
            raise FgpError(f"scores of {name}: expected one number a channel, found shape {tuple(values.shape)}")
        if not torch.isfinite(values).all():
            raise FgpError(f"scores of {name}: not all finite; compute the scores again")
        if not signed and (values < 0).any():
            raise FgpError(
                f"scores of {name}: negative, so that shares of their sum mean nothing; select by count or global instead"
            )
        checked[name] = values.detach().to("cpu", torch.float64)
    return checked


def _descending(values: Tensor) -> Tensor:
    return values.argsort(descending=True, stable=True)
