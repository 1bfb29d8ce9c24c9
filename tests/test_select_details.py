"""Arguments, defaults and limits of the selections."""

import itertools
import warnings

import pytest
import torch
from test_verification import Net
from torch import nn

from fgp import select, selections
from fgp.errors import FgpError
from fgp.surgery import Structure

SCORES = {"a": torch.arange(40.0), "b": torch.arange(30.0).flip(0)}
SHARE_OF = {
    "k": [select.cumulative, select.count, select.peak, select.bottom],
    "share": [
        select.global_threshold,
        lambda scores, share: select.rand(scores, share, 0),
        select.peak_rand,
        select.bottom_rand,
        lambda scores, of: select.peak_rand(scores, 0.1, of),
        lambda scores, of: select.bottom_rand(scores, 0.1, of),
    ],
}


@pytest.mark.parametrize(("argument", "choose"), [(name, rule) for name, rules in SHARE_OF.items() for rule in rules])
@pytest.mark.parametrize("share", [0, 1.5])
def test_shares_out_of_range_are_named(argument, choose, share):
    with pytest.raises(FgpError, match=rf"^{argument}: {share} is out of range"):
        choose(SCORES, share)


@pytest.mark.parametrize("pick", [select.peak_rand, select.bottom_rand])
def test_pools_that_do_not_fit_are_named(pick):
    with pytest.raises(FgpError, match=r"^share: 0.6 of all channels do not fit into a pool of 0.5"):
        pick(SCORES, 0.6)


def test_defaults():
    for pick in (select.peak_rand, select.bottom_rand):
        assert pick(SCORES, 0.3) == pick(SCORES, 0.3, 0.5, 0, "all", 1, None)
    structure, scores = chain(2, 30, 1)
    assert select.choose(select.parse("rand-0.30"), scores, structure) == select.rand(structure.gather(scores), 0.3, 0)
    by_sum = select.choose(select.parse("macs-0.5"), scores, structure)
    assert by_sum == select.match_budget(scores, structure, 0.5) == select.match_budget(scores, structure, 0.5, "cumulative", 1)


def chain(*channels, side=1):
    """1x1 convolutions in a row (on one pixel: as many MACs as weights) and random scores."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(*pair, 1) for pair in itertools.pairwise(channels)))
    scores = {str(index): torch.rand(size) for index, size in enumerate(channels[1:])}
    return Structure(model, torch.empty(1, channels[0], side, side, device="meta")), scores


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inside, self.back = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.back(self.inside(x)))


def test_match_macs_hands_on_its_arguments():
    model, x = Residual(), torch.empty(1, 2, 4, 4, device="meta")
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(conv.out_channels, generator=generator) for name, conv in model.named_children()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(select.match_macs(scores, model, x, 0.7)) == ["inside"]
        for rule, tied, multiple in itertools.product(selections.RULES, [False, True], [1, 3]):
            expected = select.match_budget(scores, Structure(model, x, tied), 0.7, rule, multiple)
            assert list(expected) == (["stem", "inside"] if tied else ["inside"])
            assert select.match_macs(scores, model, x, 0.7, rule, tied, multiple) == expected
        assert select.match_macs(scores, model, x, 0.7) == select.match_macs(scores, model, x, 0.7, "cumulative", False, 1)


@pytest.mark.parametrize("rule", selections.RULES)
def test_negative_scores_have_no_cumulative_budget(rule):
    structure, scores = chain(2, 10, 1)
    scores["0"] -= 0.5
    if rule == "cumulative":
        with pytest.raises(FgpError, match="scores of 0: negative"):
            select.match_budget(scores, structure, 0.5, rule)
    else:
        assert select.match_budget(scores, structure, 0.5, rule) == {"0": sorted(scores["0"].topk(5).indices.tolist())}


def test_no_scores_at_all():
    for rule in (select.cumulative, select.count):
        with pytest.raises(FgpError, match=r"scores of a: expected one number a channel, found shape \(0,\)"):
            rule({"a": torch.ones(0)}, 0.5)


@pytest.mark.parametrize(("budget", "kept"), [(2, 1), (0.5, 1), (1, 2), (3.999, 2), (4, 2)])
def test_budgets_above_1_are_macs(budget, kept):
    structure, _ = chain(1, 2, 1)
    assert structure.macs() == 4
    assert len(select.match_budget({"0": torch.ones(2), "1": torch.ones(1)}, structure, budget)["0"]) == kept


@pytest.mark.parametrize("rule", selections.RULES)
def test_lower_end_of_the_budget(rule):
    """At 3 MACs a channel the least is 3 of 3000."""
    structure, scores = chain(2, 1000, 1)
    best = {"0": [int(scores["0"].argmax())]}
    for budget in (3, 2.99, 3 * (1 - 0.005)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert select.match_budget(scores, structure, budget, rule) == best
    message = r"^budget 2\.98: 3 MACs cannot be reached; pruning reaches 3 to 3,000 MACs \(0\.0010 to 1 of the dense network\)$"
    with pytest.raises(FgpError, match=message):
        select.match_budget(scores, structure, 2.98, rule)
    with pytest.raises(FgpError, match="cannot be reached with multiples of 2 channels; pruning reaches 6 to"):
        select.match_budget(scores, structure, 3, rule, multiple=2)


def test_half_a_percent_is_close_enough():
    """201 MACs instead of 200: neither more nor less than 0.5 %."""
    structure, scores = chain(2, 70, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(select.match_budget(scores, structure, 200)["0"]) == 67


@pytest.mark.parametrize(
    ("budget", "multiple", "kept", "rounding"),
    [(7, 1, 2, "the"), (8, 1, 3, "the"), (7, 2, 2, "for multiples of 2 channels, the")],
)
def test_warning_about_a_coarse_budget(budget, multiple, kept, rounding):
    structure, scores = chain(2, 4, 1)
    nearest = f"the nearest plan has {3 * kept} MACs instead of {budget}"
    with pytest.warns(UserWarning, match=f"^budget {budget}: {nearest}; {rounding} layers are too small for a closer one$"):
        assert len(select.match_budget(scores, structure, budget, multiple=multiple)["0"]) == kept


def test_unknown_rule():
    structure, scores = chain(2, 4, 1)
    with pytest.raises(FgpError, match=r"^rule 'best': unknown; use one of cumulative, count, global$"):
        select.match_budget(scores, structure, 0.5, "best")


def test_names_mean_the_functions():
    structure, scores = chain(2, 30, 20, 1)
    gathered = structure.gather(scores)
    expected = {
        "cumulative-0.40": select.cumulative(gathered, 0.4),
        "count-0.40-x3": select.count(gathered, 0.4, 3),
        "global-0.40": select.global_threshold(gathered, 0.4),
        "macs-0.6": select.match_budget(scores, structure, 0.6, "count"),
        "peak-0.30": select.peak(gathered, 0.3),
        "bottom-0.30": select.bottom(gathered, 0.3),
        "rand-0.30-x4": select.rand(gathered, 0.3, 7, 4),
        "peak-rand-0.30-of-0.60": select.peak_rand(gathered, 0.3, 0.6, 7),
        "bottom-rand-0.30-of-0.60-pool-x3": select.bottom_rand(gathered, 0.3, 0.6, 7, "pool", 3),
    }
    assert len({str(plan) for plan in expected.values()}) == len(expected)
    for name, plan in expected.items():
        assert select.choose(select.parse(name), scores, structure, seed=7, rule="count") == plan, name


@pytest.mark.parametrize("offset", [-0.004, 0.004])
@pytest.mark.parametrize(
    ("rule", "choose"), [("cumulative", select.cumulative), ("count", select.count), ("global", select.global_threshold)]
)
def test_a_rules_own_plan_that_is_close_enough_stays_as_it_is(rule, choose, offset):
    structure, scores = chain(3, 60, 40, 2)
    plan = choose(structure.gather(scores), 0.5)
    assert select.match_budget(scores, structure, structure.macs(plan) * (1 + offset), rule) == plan


@pytest.mark.parametrize(
    ("cost", "all_fine", "best", "coarse", "fine"),
    [(21, 90, "coarse", 47, 3), (21, 2, "coarse", 47, 2), (23, 90, "coarse", 43, 2), (23, 90, "fine", 32, 90)],
    ids=["closed from below", "nothing left that fits", "closed to exactly 0.5 %", "only one more is nearer"],
)
def test_gap_is_filled_with_cheaper_channels(cost, all_fine, best, coarse, fine):
    """For 1000 MACs; channels of `coarse` cost most, those of `fine` cost 3; which of them score best has its turn first."""
    layers = {"coarse": nn.Conv2d(2, 90, 1), "one": nn.Conv2d(90, cost - 2, 1)}
    layers |= {"fine": nn.Conv2d(2, all_fine, 1), "two": nn.Conv2d(all_fine, 1, 1)}
    model = Net(lambda net, x: (net.one(net.coarse(x)), net.two(net.fine(x))), **layers)
    scores = {name: torch.rand(layer.out_channels) + (name == best) for name, layer in layers.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = select.match_macs(scores, model, torch.empty(1, 2, 1, 1), 1000, "global")
    assert {name: len(kept) for name, kept in plan.items()} == {"coarse": coarse, "fine": fine}
    assert len(caught) == (abs(cost * coarse + 3 * fine - 1000) > 5)


@pytest.mark.parametrize("factor", [1, 0.001])
def test_layers_without_any_score_come_last(factor):
    """`cumulative` asks only for their first channel; layers of a single channel have no further one to give."""
    structure, scores = chain(3, 30, 20, 1, 20, 1)
    scores = {name: values * factor for name, values in scores.items()} | {"1": torch.zeros(20)}
    plan = select.match_budget(scores, structure, 3 * 15 + 15 + 1 + 10 + 10)
    assert (plan["1"], plan["2"]) == ([0], [0])
    assert min(len(plan["0"]), len(plan["3"])) > 1
    gathered = structure.gather(scores)
    own = select.cumulative(gathered, 0.6)
    assert select.match_budget(scores, structure, structure.macs(own)) == own


def test_ties_go_to_the_lower_index_in_wide_layers():
    values = torch.arange(5000) % 3
    best = [index for index in range(5000) if index % 3 == 2]
    worst = [index for index in range(5000) if index % 3 == 0]
    assert select.count({"a": values}, 0.2) == select.global_threshold({"a": values}, 0.2) == {"a": best[:1000]}
    assert select.bottom({"a": values}, 0.2) == {"a": worst[-1000:]}


def test_sums_are_exact_where_float32_is_not():
    scores = {"a": torch.tensor([2.0**24, 1, 1, 1, 1])}
    assert select.cumulative(scores, (2**24 + 2.5) / (2**24 + 4)) == {"a": [0, 1, 2, 3]}


def test_names_of_rounded_selections():
    for multiple in (2, 3):
        assert selections.parse(f"count-0.40-x{multiple}").multiple == multiple
    assert selections.parse("macs-1").value == 1


@pytest.mark.parametrize(
    "name", ["count-1.5", "cumulative-0", "peak-rand-1.5-of-0.50", "peak-rand-0.30-of-1.50-pool", "bottom-rand-0.60-of-0.50"]
)
def test_illegal_shares_name_the_selection(name):
    with pytest.raises(FgpError, match=f"^selection '{name}': "):
        selections.parse(name)


def test_suggestions():
    with pytest.raises(FgpError, match="^selection 'zzz': unknown; legal forms are like " + ", ".join(selections.NAMES)):
        selections.parse("zzz")
    with pytest.raises(FgpError, match=r"^selection 'peek-0.30': unknown; legal forms are like peak-0.30(, [^,]*){0,2}$"):
        selections.parse("peek-0.30")


def test_portion_of_a_share_that_binary_numbers_miss():
    """Nine digits after the point: what lies beyond is rounding."""
    assert selections.portion(0.07, 100) == 7
    assert [selections.portion(0.5 + 4e-12, 100), selections.portion(0.5 + 4e-10, 100)] == [50, 51]


def test_shares_are_of_sums_in_float64():
    scores = {"a": torch.tensor([2.0**24, 1, 1, 1, 1])}
    assert select.cumulative(scores, 1 - 2.0**-24) == {"a": [0, 1, 2, 3]}
