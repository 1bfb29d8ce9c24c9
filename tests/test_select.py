"""Selection rules against literal references, and the MACs budget."""

import math
import random
import warnings
from fractions import Fraction

import pytest
import torch
import torchvision

import fgp
import fgp.models
from fgp import select
from fgp.errors import FgpError
from fgp.surgery import Structure

X = torch.empty(1, 3, 32, 32, device="meta")
RANDOM = random.Random(0)
WHOLE_NUMBERS = [[RANDOM.choice([0, 0, 1, 1, 2, 3, 7, 50]) for _ in range(RANDOM.randint(1, 12))] for _ in range(60)]
SHARES = ["0.01", "0.1", "0.25", "0.3", "0.35", "0.4", "0.5", "0.7", "0.9", "0.99", "1"]


def scores_of(values):
    return {"a": torch.tensor(values, dtype=torch.float32)}


def ranking(values):
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


def literal_cumulative(values, k):
    total, held, kept = sum(map(Fraction, values)), Fraction(0), []
    for index in ranking(values):
        kept.append(index)
        held += Fraction(values[index])
        if held >= Fraction(k) * total:
            break
    return sorted(kept)


def literal_size(share, channels):
    return max(1, math.ceil(Fraction(share) * channels))


@pytest.mark.parametrize("k", SHARES)
def test_cumulative_equals_its_definition(k):
    for values in WHOLE_NUMBERS:
        assert select.cumulative(scores_of(values), float(k)) == {"a": literal_cumulative(values, k)}


def test_cumulative_on_real_numbers():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)) ** 8
    for k in SHARES:
        assert select.cumulative({"a": values}, float(k))["a"] == literal_cumulative(values.tolist(), k)


@pytest.mark.parametrize(
    ("values", "k", "kept"),
    [
        ([0, 0, 0], 0.4, [0]),
        ([0, 0, 0], 1, [0]),
        ([3, 0, 1, 0], 1, [0, 2]),
        ([1, 1, 1, 1], 0.5, [0, 1]),
        ([0.1] * 10, 0.3, [0, 1, 2]),
        ([1, 5, 4], 0.5, [1]),
        ([1, 5, 4], 0.51, [1, 2]),
        ([7], 0.01, [0]),
        ([1e10, 1e-10, 0], 1, [0, 1]),
    ],
)
def test_cumulative_edges(values, k, kept):
    assert select.cumulative(scores_of(values), k) == {"a": kept}


@pytest.mark.parametrize("share", SHARES)
def test_count_peak_and_bottom_equal_their_definitions(share):
    for values in WHOLE_NUMBERS:
        order, number = ranking(values), literal_size(share, len(values))
        assert select.count(scores_of(values), float(share)) == {"a": sorted(order[:number])}
        assert select.peak(scores_of(values), float(share)) == {"a": sorted(order[:number])}
        assert select.bottom(scores_of(values), float(share)) == {"a": sorted(order[-number:])}


def test_count_is_safe_against_binary_rounding():
    assert len(select.count({"a": torch.rand(100)}, 0.07)["a"]) == 7


def test_cumulative_keeps_at_most_what_count_keeps():
    scores = {"a": torch.rand(200)}
    for k in SHARES:
        assert len(select.cumulative(scores, float(k))["a"]) <= len(select.count(scores, float(k))["a"])


@pytest.mark.parametrize("share", SHARES)
def test_global_threshold_equals_its_definition(share):
    layers = dict(zip("abcdefgh", WHOLE_NUMBERS, strict=False))
    everything = [(-value, position, index) for position, name in enumerate(layers) for index, value in enumerate(layers[name])]
    best = sorted(everything)[: literal_size(share, len(everything))]
    plan = select.global_threshold(
        {name: torch.tensor(values, dtype=torch.float32) for name, values in layers.items()}, float(share)
    )
    for position, (name, values) in enumerate(layers.items()):
        kept = {index for _, other, index in best if other == position} | {ranking(values)[0]}
        assert plan[name] == sorted(kept)


def test_random_selections():
    scores = {"a": torch.arange(100.0), "b": torch.arange(10.0).flip(0)}
    plan = select.rand(scores, 0.3, seed=1)
    assert [len(plan[name]) for name in "ab"] == [30, 3]
    assert plan == select.rand(scores, 0.3, seed=1) != select.rand(scores, 0.3, seed=2)
    for pick, pool in ((select.peak_rand, range(50, 100)), (select.bottom_rand, range(50))):
        plan = pick(scores, 0.3, of=0.5, seed=1)
        assert len(plan["a"]) == 30
        assert set(plan["a"]) <= set(pool)
        assert plan == pick(scores, 0.3, of=0.5, seed=1) != pick(scores, 0.3, of=0.5, seed=2)
        assert len(pick(scores, 0.3, of=0.5, seed=1, base="pool")["a"]) == 15
        assert pick(scores, 0.5, of=0.5, seed=3)["a"] == list(pool)
    assert set(select.peak_rand(scores, 0.3, seed=1)["b"]) <= set(range(5))


def test_random_selection_reaches_every_channel():
    counts = [0] * 10
    for seed in range(400):
        for index in select.rand({"a": torch.zeros(10)}, 0.3, seed)["a"]:
            counts[index] += 1
    assert all(80 < count < 160 for count in counts)


RULES = {
    "cumulative": lambda scores, k: select.cumulative(scores, k),
    "count": lambda scores, k: select.count(scores, k),
    "global": lambda scores, k: select.global_threshold(scores, k),
    "bottom": lambda scores, k: select.bottom(scores, k),
    "rand": lambda scores, k: select.rand(scores, k, 0),
    "peak_rand": lambda scores, k: select.peak_rand(scores, k, 1, 0),
    "bottom_rand": lambda scores, k: select.bottom_rand(scores, k, 1, 0),
}


@pytest.mark.parametrize("rule", RULES)
def test_bad_arguments(rule):
    for k in (0, -0.1, 1.01, 40, float("nan")):
        with pytest.raises(FgpError, match="out of range"):
            RULES[rule](scores_of([1, 2]), k)
    for value in (float("nan"), float("inf")):
        with pytest.raises(FgpError, match="scores of a: not all finite"):
            RULES[rule](scores_of([1, value]), 0.4)
    with pytest.raises(FgpError, match="scores of a: expected one number a channel"):
        RULES[rule]({"a": torch.ones(2, 2)}, 0.4)
    assert RULES[rule](scores_of([3]), 0.01) == {"a": [0]}
    assert RULES[rule]({}, 0.4) == {}


def test_negative_scores():
    with pytest.raises(FgpError, match="scores of a: negative"):
        select.cumulative(scores_of([1, -1]), 0.4)
    assert select.count(scores_of([1, -1, 3]), 0.6) == {"a": [0, 2]}
    assert select.global_threshold(scores_of([-3, -1, -2]), 0.5) == {"a": [1, 2]}


def test_pool_too_small():
    with pytest.raises(FgpError, match="do not fit"):
        select.peak_rand(scores_of([1, 2, 3]), 0.6, of=0.5)
    with pytest.raises(FgpError, match="base"):
        select.peak_rand(scores_of([1, 2, 3]), 0.3, of=0.5, base="half")


def random_scores(model):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(module.out_channels, generator=generator) ** 4
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }


@pytest.fixture(scope="module")
def vgg():
    model = fgp.models.build("vgg16", 10, 0.5)
    return model, random_scores(model), Structure(model, X)


@pytest.mark.parametrize("rule", ["cumulative", "count", "global"])
@pytest.mark.parametrize("budget", [0.02, 0.1, 0.2368, 0.5, 0.9, 1.0])
def test_budget_is_met(vgg, rule, budget):
    model, scores, structure = vgg
    plan = select.match_macs(scores, model, X, budget, rule)
    assert structure.macs(plan) == pytest.approx(budget * structure.macs(), rel=0.005)
    absolute = select.match_budget(scores, structure, max(2, budget * structure.macs()), rule)
    assert absolute == plan


@pytest.mark.parametrize(
    ("rule", "choose"), [("cumulative", select.cumulative), ("count", select.count), ("global", select.global_threshold)]
)
@pytest.mark.parametrize("k", [0.2, 0.35, 0.4, 0.8])
def test_budget_of_a_rules_own_plan_gives_that_plan(vgg, rule, choose, k):
    _, scores, structure = vgg
    plan = choose(structure.gather(scores), k)
    assert select.match_budget(scores, structure, structure.macs(plan), rule) == plan


def test_budget_point_is_the_nearest_of_all(monkeypatch):
    """The bisection against a walk over every plan between nothing and everything."""
    model = fgp.models.build("vgg16", 10, 0.0625)
    scores, structure = random_scores(model), Structure(model, X)
    gathered = structure.gather(scores)
    totals = {name: values.sort(descending=True, stable=True).values.cumsum(0) for name, values in gathered.items()}
    steps = sorted({float(sums[i] / sums[-1]) for sums in totals.values() for i in range(len(sums) - 1)})
    costs = [structure.macs(select.cumulative(gathered, min(1, k + 1e-9))) for k in [0, *steps]]
    for budget in (0.05, 0.2, 0.3333, 0.7):
        target = budget * structure.macs()
        best = min(abs(cost - target) for cost in costs)
        monkeypatch.setattr(select, "_filled_up", lambda plan, *_: plan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            walked = select.match_budget(scores, structure, budget)
        assert abs(structure.macs(walked) - target) == pytest.approx(best)


@pytest.mark.parametrize("rule", select.RULES)
@pytest.mark.parametrize("budget", [0.1, 0.15, 0.2368, 0.4, 0.6, 0.8])
def test_budget_is_met_on_thin_layers(rule, budget):
    model = fgp.models.build("vgg16", 10, 0.125)
    scores, structure = random_scores(model), Structure(model, X)
    plan = select.match_budget(scores, structure, budget, rule)
    assert structure.macs(plan) == pytest.approx(budget * structure.macs(), rel=0.005)
    order = {name: ranking(values.tolist()) for name, values in scores.items()}
    assert all(kept == sorted(order[name][: len(kept)]) for name, kept in plan.items())


@pytest.mark.parametrize("tied", [False, True])
def test_budget_on_coupled_layers(tied):
    model = fgp.models.build("resnet50", 10, 0.25)
    plan = select.match_macs(random_scores(model), model, X, 0.6, tied=tied)
    structure = Structure(model, X, tied)
    assert len(plan) == (37 if tied else 33)
    assert structure.macs(plan) == pytest.approx(0.6 * structure.macs(), rel=0.005)


def test_budget_on_grouped_convolutions():
    model = torchvision.models.resnext50_32x4d(weights=None)
    scores, structure = random_scores(model), Structure(model, X, tied=True)
    plan = select.match_budget(scores, structure, 0.4, "count")
    assert structure.macs(plan) == pytest.approx(0.4 * structure.macs(), rel=0.005)
    assert plan == structure.applied(plan)


def test_budget_out_of_reach(vgg):
    model, scores, structure = vgg
    least = structure.macs({group.leader: [0] for group in structure.prunable})
    for budget in (1e-4, structure.macs() + 1, 0, -0.5, float("nan")):
        with pytest.raises(FgpError, match=rf"cannot be reached; pruning reaches {least:,} to {structure.macs():,} MACs"):
            select.match_macs(scores, model, X, budget)
    resnet = fgp.models.build("resnet50", 10, 0.0625)
    with pytest.raises(FgpError, match="cannot be reached"):
        select.match_macs(random_scores(resnet), resnet, X, 0.05)
    with pytest.raises(FgpError, match="rule 'best'"):
        select.match_macs(scores, model, X, 0.5, "best")


def test_budget_between_coarse_steps_warns():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 1, 1))
    scores = {"0": torch.tensor([4.0, 1, 3, 2]), "1": torch.ones(1)}
    with pytest.warns(UserWarning, match="nearest plan"):
        assert select.match_macs(scores, model, X, 0.6) == {"0": [0, 2]}


def test_zero_scores_can_be_budgeted(vgg):
    model, scores, structure = vgg
    zeros = {name: torch.zeros_like(values) for name, values in scores.items()}
    plan = select.match_macs(zeros, model, X, 0.3)
    assert structure.macs(plan) == pytest.approx(0.3 * structure.macs(), rel=0.005)
