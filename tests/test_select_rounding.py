"""Kept channels in multiples: every selection, and the MACs budget."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_select import ranking
from torch import nn

import fgp.models
from fgp import select
from fgp.errors import FgpError
from fgp.surgery import Structure

X = torch.empty(1, 3, 8, 8, device="meta")
LAYERS = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=40), min_size=1)
SHARES = st.sampled_from([0.01, 0.1, 0.25, 0.4, 0.5, 0.7, 0.99, 1])
MULTIPLES = st.integers(1, 11)
DETERMINISTIC = {
    "cumulative": select.cumulative,
    "count": select.count,
    "global": select.global_threshold,
    "peak": select.peak,
    "bottom": select.bottom,
}
RANDOM = {
    "rand": lambda scores, share, **rounding: select.rand(scores, share, 5, **rounding),
    "peak-rand": lambda scores, share, **rounding: select.peak_rand(scores, share, 0.5, 5, "pool", **rounding),
    "bottom-rand": lambda scores, share, **rounding: select.bottom_rand(scores, share / 2, 0.5, 5, **rounding),
}


def tensors(layers):
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in layers.items()}


def rounded_up(number, multiple, most):
    return next(legal for legal in itertools.count(number) if legal % multiple == 0 or legal >= most)


@pytest.mark.parametrize("rule", DETERMINISTIC)
@settings(max_examples=40, deadline=None)
@given(layers=LAYERS, share=SHARES, multiple=MULTIPLES)
def test_further_channels_are_the_next_in_order(rule, layers, share, multiple):
    plain, rounded = (DETERMINISTIC[rule](tensors(layers), share, multiple=m) for m in (1, multiple))
    assert plain == DETERMINISTIC[rule](tensors(layers), share)
    for name, values in layers.items():
        order = ranking(values)[:: -1 if rule == "bottom" else 1]
        assert plain[name] == sorted(order[: len(plain[name])])
        assert rounded[name] == sorted(order[: rounded_up(len(plain[name]), multiple, len(values))])


@pytest.mark.parametrize("rule", RANDOM)
@settings(max_examples=40, deadline=None)
@given(layers=LAYERS, share=SHARES, multiple=MULTIPLES)
def test_further_channels_of_random_selections_come_from_the_pool(rule, layers, share, multiple):
    plain, rounded = (RANDOM[rule](tensors(layers), share, multiple=m) for m in (1, multiple))
    assert plain == RANDOM[rule](tensors(layers), share)
    for name, values in layers.items():
        order = ranking(values)[:: -1 if rule == "bottom-rand" else 1]
        pool = order if rule == "rand" else order[: math.ceil(len(order) / 2)]
        assert set(plain[name]) <= set(rounded[name]) <= set(pool)
        assert len(rounded[name]) == min(len(pool), rounded_up(len(plain[name]), multiple, len(pool)))


@pytest.mark.parametrize("rule", [*DETERMINISTIC, *RANDOM])
@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=12), unit=st.integers(2, 4), share=SHARES, multiple=MULTIPLES)
def test_units_stay_whole(rule, values, unit, share, multiple):
    choose, scores = {**DETERMINISTIC, **RANDOM}[rule], {"a": torch.tensor(values).repeat_interleave(unit).float()}
    kept = choose(scores, share, multiple=multiple, units={"a": unit})["a"]
    assert all(set(range(channel // unit * unit, (channel // unit + 1) * unit)) <= set(kept) for channel in kept)
    plain = choose(scores, share)["a"]
    pool = len(values) * unit if "-" not in rule else -(-len(values) * unit // 2)
    if len(kept) % math.lcm(multiple, unit):
        assert pool <= len(kept) < pool + unit
    elif rule in DETERMINISTIC:
        assert len(plain) <= len(kept) < len(plain) + math.lcm(multiple, unit)


@pytest.mark.parametrize("multiple", [0, -8, 2.0])
def test_illegal_multiples(multiple):
    for rule in (select.count, select.bottom):
        with pytest.raises(FgpError, match=r"multiple .*: give a whole number of at least 1"):
            rule({"a": torch.ones(4)}, 0.5, multiple=multiple)


def tiny(*channels):
    """Convolutions in a row, scored at random, and the structure: all but the last are prunable."""
    torch.manual_seed(0)
    sizes = [3, *channels, 2]
    model = nn.Sequential(*(nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(sizes)))
    return {str(index): torch.rand(size) for index, size in enumerate(sizes[1:])}, Structure(model, X)


def macs_of(counts):
    """MACs of `tiny` at 8x8 pixels with so many channels left in each prunable layer, by hand."""
    return sum(64 * 9 * inputs * outputs for inputs, outputs in itertools.pairwise([3, *counts, 2]))


def legal(channels, multiple):
    return sorted({*range(multiple, channels, multiple), channels})


@pytest.mark.parametrize("rule", select.RULES)
@pytest.mark.parametrize("multiple", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [(12, 10, 7), (16, 4, 9)])
def test_budget_against_brute_force(rule, multiple, channels):
    scores, structure = tiny(*channels)
    gathered, choose = structure.gather(scores), DETERMINISTIC[rule]
    order = {name: ranking(values.tolist()) for name, values in gathered.items()}
    chosen = (choose(gathered, share / 500, multiple=multiple) for share in range(1, 501))
    rules_own = {macs_of(map(len, plan.values())) for plan in chosen}
    every = {macs_of(counts) for counts in itertools.product(*(legal(count, multiple) for count in channels))}
    for budget in (0.2, 0.35, 0.5, 0.8, 1):
        target = budget * structure.macs()
        if target < min(every):
            continue
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            plan = select.match_budget(scores, structure, budget, rule, multiple)
        assert all(len(kept) in legal(count, multiple) for kept, count in zip(plan.values(), channels, strict=True))
        assert all(kept == sorted(order[name][: len(kept)]) for name, kept in plan.items())
        distance = abs(macs_of(map(len, plan.values())) - target)
        assert min(abs(macs - target) for macs in every) <= distance <= min(abs(macs - target) for macs in rules_own)
        assert bool(warned) == (distance > 0.005 * target)


def test_larger_budgets_keep_what_smaller_ones_keep(monkeypatch):
    scores, structure = tiny(24, 24, 24)
    monkeypatch.setattr(select, "_filled_up", lambda plan, *_: plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = [select.match_budget(scores, structure, budget, multiple=4) for budget in (0.1, 0.3, 0.5, 0.9, 1)]
    for smaller, larger in itertools.pairwise(plans):
        assert all(set(kept) <= set(larger[name]) for name, kept in smaller.items())


def test_messages_name_the_multiple():
    scores, structure = tiny(16, 16)
    with pytest.warns(UserWarning, match=r"nearest plan has [\d,]+ MACs instead of [\d,]+; for multiples of 8 channels"):
        select.match_budget(scores, structure, 0.6, multiple=8)
    with pytest.raises(FgpError, match="cannot be reached with multiples of 8 channels; pruning reaches"):
        select.match_budget(scores, structure, 0.1, multiple=8)


class Grouped(nn.Module):
    """A convolution of 12 groups, so that its channels and those before it go four at a time."""

    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=12)
        self.last = nn.Conv2d(48, 20, 1)
        self.head = nn.Conv2d(20, 2, 1)

    def forward(self, images):
        return self.head(self.last(self.grouped(self.stem(images))).relu())


@pytest.mark.parametrize(
    "name", ["cumulative-0.40", "global-0.50", "bottom-0.30", "rand-0.30", "peak-rand-0.30-of-0.90", "macs-0.6"]
)
@pytest.mark.parametrize(("multiple", "step"), [(2, 4), (6, 12), (8, 8)])
def test_grouped_convolutions_keep_the_least_common_multiple(name, multiple, step):
    torch.manual_seed(0)
    model = Grouped()
    structure = Structure(model, X)
    assert {group.leader: group.unit for group in structure.prunable} == {"stem": 4, "last": 1}
    scores = {layer: torch.rand(m.out_channels) for layer, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = select.choose(select.parse(f"{name}-x{multiple}"), scores, structure, seed=1)
    assert structure.applied(plan) == plan
    assert len(plan["stem"]) % step == 0
    assert len(plan["last"]) % multiple == 0 or len(plan["last"]) in (18, 20)
    pruned = structure.prune(plan)
    assert (pruned.grouped.out_channels, pruned.last.out_channels) == (len(plan["stem"]), len(plan["last"]))


@pytest.mark.parametrize("tied", [False, True])
def test_coupled_layers_of_a_resnet(tied):
    model = fgp.models.build("resnet50", 10, 0.25)
    scores = {name: torch.rand(m.out_channels) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plan = select.match_macs(scores, model, torch.empty(1, 3, 32, 32, device="meta"), 0.6, tied=tied, multiple=8)
    structure = Structure(model, torch.empty(1, 3, 32, 32, device="meta"), tied)
    assert structure.macs(plan) == pytest.approx(0.6 * structure.macs(), rel=0.005)
    assert all(count % 8 == 0 for count in structure.kept(plan).values())
