import copy
import itertools

import pytest
import torch
from reference_fgp import randomise
from scoring_networks import classification, residual
from test_train_loop import classification as labelled
from torch import nn

import baselines
import fgp
from fgp import FgpError
from fgp.models import build
from fgp.scoring.ablation import Ablations, Round
from fgp.surgery import Structure
from fgp.train import Recipe, fit
from fgp.train.hooks import Run
from fgp.train.resume import Checkpoint

GRADUAL, ONESHOT = baselines.get("aofp"), baselines.get("aofp-oneshot")


class Sums(nn.Module):
    """The channels of `conv` are the constants `values`, read apart (then t adds up) or summed; no normalisation."""

    def __init__(self, values, apart=True):
        super().__init__()
        self.conv, self.read = nn.Conv2d(3, len(values), 1), nn.Conv2d(len(values), len(values) if apart else 1, 1, bias=False)
        self.linear = nn.Linear(self.read.out_channels, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, 0, 0, 0] = torch.linspace(1, 2, len(values))  # no norm twice
            self.conv.bias.copy_(torch.tensor(values, dtype=torch.float32))
            self.read.weight.copy_((torch.eye(len(values)) if apart else torch.ones(1, len(values)))[..., None, None])
        self.eval()

    def forward(self, x):
        return self.linear(self.read(self.conv(0 * x)).mean((2, 3)))


@pytest.mark.parametrize("values", [[8, 3, 5, 1, 7, 2, 6, 4], [2, 5, 1, 3, 4], [1, 3, 2], [2, 1]])
def test_the_search_recovers_a_known_order(values, monkeypatch):
    """Every half is ablated once. Read apart, mean t rises with the square of the value, so the order is that of the values."""

    def every_half(turn, *_):
        size = len(turn.competing)
        return turn.competing[torch.tensor([*itertools.combinations(range(size), size // 2)])]

    monkeypatch.setattr(Round, "draw", every_half)
    scores = ONESHOT.score(Sums(values), [(torch.rand(1, 3, 2, 2), None)], 0, iterations=1)["conv"]
    assert scores.argsort().tolist() == torch.tensor(values).argsort().tolist()
    size, total, rest = len(values), sum(v * v for v in values), sorted(v * v for v in values)
    expected = {}
    while size > 1:
        half = size // 2
        for v in rest[:size]:
            expected[v] = (v + (half - 1) / (size - 1) * (sum(rest[:size]) - v)) / total
        size = half
    assert sorted(scores.tolist()) == pytest.approx(sorted(expected.values()))


def test_scores_of_layers_that_share_channels_add_up_and_the_rest_is_one():
    torch.manual_seed(0)
    model, images = randomise(build("resnet50", 4, 1 / 32)), torch.randn(6, 3, 16, 16)
    scores = ONESHOT.score(model, [(images, None)], 0, iterations=4)
    structure = Structure(model, images, tied=True)
    for group in structure.prunable:
        assert all(torch.equal(scores[member], scores[group.leader]) for member in group.members)


def test_scores_are_the_damages_in_the_order_of_the_search(monkeypatch):
    """Of two layers that share channels each gets a half; a unit that was never ablated gets the largest damage."""
    calls = []

    def search(model, structure, batches, seed, iterations, images):
        calls.append((seed, iterations, images))
        return {"stem": [(2, 3.0), (0, 1.0), (5, float("inf")), (1, 4.0), (3, 2.0), (4, 6.0)]}

    monkeypatch.setattr(ONESHOT, "_search", search)
    scores = ONESHOT.score(residual(segmentation=True), [(classification()[0], None)], 3)
    assert scores["stem"].tolist() == scores["conv2"].tolist() == [1, 2, 0.5, 3, 3, 1.5]
    assert scores["conv1"].tolist() == [1] * 5
    assert scores["head"].tolist() == [1] * 4
    assert calls == [(3, 1000, 64)]


def test_a_single_channel_is_not_searched():
    assert ONESHOT.score(Sums([3.0]), [(torch.rand(1, 3, 2, 2), None)], 0)["conv"].tolist() == [1]


def test_iterations_and_images_bound_the_work(monkeypatch):
    seen, measure = [], Ablations._measure

    def watched(self, name, features, output):
        seen.append((name, len(features), len(self.chosen["conv"])))
        measure(self, name, features, output)

    monkeypatch.setattr(Ablations, "_measure", watched)
    images = torch.rand(10, 3, 2, 2)
    ONESHOT.score(Sums([1, 2, 3]), [(images[:7], None), (images[7:], None)], 0, iterations=5, images=4)
    assert [entry[1:] for entry in seen if entry[0] == "read"] == [(4, 1), (3, 2), (3, 2)]


class Alone:
    """Runs the hook of the gradual method on given damages, without training: t = sum of the values ablated, in percent."""

    def __init__(self, values, budget=0.1, steps=10**6, apart=True, **options):
        model = Sums(values, apart)
        self.hook = GRADUAL.pruning(budget, **options)
        self.values = {"conv": torch.tensor(values) / 100, "read": torch.full((model.read.out_channels,), 9.0)}
        self.hook.begin(Run(model, [(torch.rand(2, 3, 2, 2), None)], steps, 10, 2, "classification", 0, torch.device("cpu")))
        self.hook.ablations.take = lambda: {
            leader: self.values[leader][chosen].sum(1) for leader, chosen in self.hook.ablations.chosen.items()
        }

    def step(self, count=1):
        for _ in range(count):
            self.hook.after_step(None, None)


@pytest.mark.parametrize(("theta", "rounds", "gone"), [(0.3, 1, {1, 2, 3, 4}), (0.1, 2, {1, 2}), (0.03, 3, {1})])
def test_the_largest_half_below_theta_goes(theta, rounds, gone):
    """Mean t of the g-th smallest, in expectation: .177 (4 of 8), .047 (2 of 4), .01 (1 of 2)."""
    values = [8, 3, 5, 1, 7, 2, 6, 4]
    alone = Alone(values, iterations="300", theta=str(theta), warmup="7")
    for turn in range(rounds):
        competing = [values[c] for c in alone.hook.rounds["conv"].competing]
        assert sorted(competing) == list(range(1, 1 + 8 // 2**turn))
        assert alone.hook.plan["conv"] == list(range(8))
        alone.step(300 if turn else 307)
    left = [c for c, value in enumerate(values) if value not in gone]
    assert alone.hook.plan == {"conv": left, "read": list(range(8))}
    assert sorted(alone.hook.rounds["conv"].competing.tolist()) == left


def test_layers_start_one_after_another():
    alone = Alone([1, 2, 3, 4], 0.5, iterations=10, warmup=3)
    started = []
    for _ in range(10):
        started.append(sorted(alone.hook.ablations.chosen))
        alone.step()
    assert started == [[]] * 3 + [["conv"]] * 5 + [["conv", "read"]] * 2


def test_the_options_that_are_not_given():
    alone = Alone([1, 2, 3, 4, 5, 6, 7, 8], steps=270)
    state = torch.get_rng_state()
    assert (alone.hook.theta, alone.hook.iterations) == (0.01, 9)
    assert alone.hook.starts == {"conv": 4, "read": 8}  # half of the iterations, and a half (of two layers) later
    alone.step(12)
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_outputs_of_the_reader_do_not_count():
    """Constants 1 to 4 read apart, of which two outputs are left: 1 / 5 for the first channel, nothing for the third."""
    model, images = Sums([1, 2, 3, 4]), torch.rand(2, 3, 2, 2)
    hook = GRADUAL.pruning(0.5)
    hook.begin(Run(model, [(images, None)], 10, 10, 2, "classification", 0, torch.device("cpu")))
    hook.masks.load({"read": [0, 1]})
    hook.ablations.chosen = {"conv": torch.tensor([[0], [2]])}
    model(images)
    assert hook.ablations.take()["conv"].tolist() == pytest.approx([1 / 5, 0])


@pytest.mark.parametrize(("theta", "left"), [("0.25", [0, 1]), ("0.2501", [1])])
def test_t_has_to_be_below_theta(theta, left):
    alone = Alone([25, 50], 0.5, iterations=20, warmup=0, theta=theta)
    alone.step(20)
    assert alone.hook.plan["conv"] == left


def test_layers_of_one_channel_take_no_part():
    alone = Alone([40, 60, 30, 80], 0.5, apart=False, iterations=20, warmup=0, theta=0.01)
    for _ in range(40):  # two rounds, the second layer would have had one
        assert list(alone.hook.ablations.chosen) == ["conv"]
        alone.step()
    assert alone.hook.theta == 0.02


@pytest.mark.parametrize(("step", "theta"), [(59, 0.01), (60, 0.01), (61, 0.02), (1000, 0.02)])
def test_theta_doubles_above_the_line_only(step, theta):
    """Of 48 + 64 + 8 MACs 64 are asked for after 120 of 160 steps; a channel saves 12 + 16, half of it, on time at 60."""
    alone = Alone([40, 60, 30, 80], 64, steps=160, warmup=0)
    alone.hook.load_state_dict({**alone.hook.state_dict(), "plan": {"conv": [0, 1, 3], "read": [0, 1, 2, 3]}, "step": step})
    alone.hook.searched = {"read"}
    alone.hook.rounds["conv"] = Round([0, 1], 4)
    alone.hook.rounds["conv"].credit(torch.tensor([[0], [1]]), torch.tensor([0.4, 0.6]))
    alone.hook.decide("conv")
    assert (alone.hook.macs, alone.hook.theta) == (92, theta)


@pytest.mark.parametrize(
    ("budget", "left"), [(92, {"conv": [0, 1, 3], "read": [0, 1, 2, 3]}), (102, {"conv": [0, 1, 2, 3], "read": [0, 1, 2]})]
)
def test_the_layer_and_those_that_lost_any_start_again(budget, left):
    """Of 120 MACs a channel of the layer takes 28, too many for the second budget; the weakest of the other layer takes 18."""
    alone = Alone([40, 60, 30, 80], budget, warmup=0)
    for turn in alone.hook.rounds.values():
        turn.credit(torch.tensor([[0], [1], [2], [3]]), torch.tensor([0.4, 0.5, 0.3, 0.2]))
    alone.hook.mask("conv", [2])
    assert alone.hook.plan == left
    assert {name: turn.competing.tolist() for name, turn in alone.hook.rounds.items()} == left
    assert {name: turn.ablations for name, turn in alone.hook.rounds.items()} == {"conv": 0, "read": 4 if budget == 92 else 0}


def test_the_saved_state_is_all_that_the_search_goes_on_from():
    first, second = (Alone([8, 3, 5, 1, 7, 2, 6, 4], iterations=6, warmup=0, theta=0.02) for _ in range(2))
    first.step(45)
    assert 0 < len(first.hook.plan["conv"]) < 8
    second.hook.load_state_dict(copy.deepcopy(first.hook.state_dict()))
    for _ in range(40):
        states = [alone.hook.state_dict() for alone in (first, second)]
        for key in ("plan", "step", "theta", "searched"):
            assert states[0][key] == states[1][key]
        torch.testing.assert_close(states[1]["chosen"], states[0]["chosen"], rtol=0, atol=0)
        torch.testing.assert_close(states[1]["rounds"], states[0]["rounds"], rtol=0, atol=0)
        first.step()
        second.step()


def test_theta_doubles_when_all_layers_were_searched_in_vain():
    """Searches of 3 rounds of 20 steps, of the second layer 10 steps later; until step 750,000 the straight line falls slowly."""
    alone = Alone([40, 60, 30, 80, 50, 20, 70, 90], iterations=20, theta=0.06, warmup=0)
    alone.step(69)
    assert alone.hook.theta == 0.06
    alone.step()
    assert alone.hook.theta == 0.12
    alone.step(60)
    assert alone.hook.theta == 0.24
    assert len(alone.hook.plan["conv"]) == 8
    alone.step(51)
    assert len(alone.hook.plan["conv"]) == 7  # .2 < theta
    relaxed = Alone([4, 6, 3, 8, 5, 2, 7, 9], iterations=20, theta=0.021, warmup=0)
    relaxed.step(600)
    assert relaxed.hook.theta == 0.021  # ahead of the line


@pytest.mark.filterwarnings("ignore:budget")  # 8 channels a layer do not hit it
def test_the_end_takes_what_the_budget_takes_and_never_the_last_channel():
    for budget in (0.1, 0.3, 0.55):
        alone = Alone([8, 3, 5, 1, 7, 2, 6, 4], budget, steps=1000, warmup=0)
        alone.values["read"] = torch.arange(8) / 50
        while not alone.hook.finished:
            alone.step()
        assert alone.hook.step < 1000
        assert all(alone.hook.plan.values())
        assert alone.hook.structure.macs(alone.hook.plan) == alone.hook.macs
        assert abs(alone.hook.macs - alone.hook.target) <= 22  # half of the largest channel, 3 * 4 + 4 * 8 MACs


def train(hook, epochs, network="vgg16", width=1 / 8, **kwargs):
    torch.manual_seed(0)
    model, dataset = build(network, 4, width), labelled(side=32)
    fit(model, dataset.train, dataset, Recipe(epochs=epochs, batch_size=20, lr=0.01), 0, "cpu", hook=hook, **kwargs)
    return model, dataset


@pytest.mark.parametrize(("network", "width", "budget"), [("vgg16", 1 / 8, 0.27), ("resnet50", 1 / 32, 0.7), ("vgg16", 1 / 8, 1)])
def test_the_budget_is_met(network, width, budget):
    hook = GRADUAL.pruning(budget)
    model, dataset = train(hook, 20, network, width)
    example = dataset.train.images[:1].float()
    dense, pruned = fgp.cost.count(model, example), fgp.prune(model, hook.plan, example)
    assert fgp.cost.count(pruned, example).macs == hook.macs == pytest.approx(budget * dense.macs, rel=0.01)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(hook.plan.values())
    assert budget < 1 or all(len(kept) == model.get_submodule(name).out_channels for name, kept in hook.plan.items())


def test_training_is_not_disturbed():
    """The ablations of a run that masks nothing (theta too small) leave it as it is, bit for bit."""
    trained = []
    for options in ({"warmup": 10**6}, {"warmup": 0, "theta": 1e-9, "iterations": 2}):
        torch.manual_seed(0)
        model, dataset, hook = build("vgg16", 4, 1 / 16), labelled(side=32), GRADUAL.pruning(0.3, **options)
        with pytest.raises(FgpError, match="raise epochs"):
            fit(model, dataset.train, dataset, Recipe(epochs=3, batch_size=20, lr=0.01), 0, "cpu", hook=hook)
        trained.append(model.state_dict())
    assert hook.step == 6
    assert all(torch.equal(a, b) for a, b in zip(trained[0].values(), trained[1].values(), strict=True))


def test_an_interrupted_run_goes_on_to_the_same_network(tmp_path):
    class Interruption(Checkpoint):
        def save(self, state):
            super().save(state)
            if len(state["history"]["losses"]) == 7:
                raise KeyboardInterrupt

    straight, resumed = GRADUAL.pruning(0.5), GRADUAL.pruning(0.5)
    model, _ = train(straight, 20, width=1 / 16)
    with pytest.raises(KeyboardInterrupt):
        train(GRADUAL.pruning(0.5), 20, width=1 / 16, checkpoint=Interruption(tmp_path / "m", "k", 0))
    again, _ = train(resumed, 20, width=1 / 16, checkpoint=Checkpoint(tmp_path / "m", "k", 1e9))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert (resumed.plan, resumed.theta, resumed.step) == (straight.plan, straight.theta, straight.step)


@pytest.mark.parametrize(
    ("steps", "channels", "expected"), [(10**6, 8, 1000), (15640, 8, 521), (100, 8, 3), (10, 8, 1), (100, 7, 5), (100, 2, 10)]
)
def test_iterations_follow_the_length_of_a_short_run(steps, channels, expected):
    assert Alone(range(1, 1 + channels), 0.5, steps=steps).hook.iterations == expected


def test_a_network_without_a_layer_to_prune_only_trains():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    hook = GRADUAL.pruning(1)
    hook.begin(Run(model, [(torch.rand(2, 3, 2, 2), None)], 100, 10, 2, "classification", 0, torch.device("cpu")))
    assert (hook.finished, hook.plan, hook.ablations.chosen) == (True, {}, {})


@pytest.mark.parametrize(
    ("make", "options", "option"),
    [
        (GRADUAL.pruning, {"iterations": "0"}, "iterations"),
        (GRADUAL.pruning, {"iterations": "1.5"}, "iterations"),
        (GRADUAL.pruning, {"warmup": "-1"}, "warmup"),
        (GRADUAL.pruning, {"warmup": "1.5"}, "warmup"),
        (GRADUAL.pruning, {"theta": "0"}, "theta"),
        (GRADUAL.pruning, {"theta": "small"}, "theta"),
    ],
)
def test_options_are_checked(make, options, option):
    with pytest.raises(FgpError, match=f"^option {option}: "):
        make(0.5, **options)


def test_scores_refuse_what_they_cannot_use():
    images = torch.rand(4, 3, 2, 2)
    for options in ({"iterations": "0"}, {"images": "many"}):
        with pytest.raises(FgpError, match=next(iter(options))):
            ONESHOT.score(Sums([1, 2]), [(images, None)], 0, **options)
    with pytest.raises(FgpError, match="no image"):
        ONESHOT.score(Sums([1, 2]), [], 0)
    with pytest.raises(FgpError, match=r"^conv: its damage is NaN"):
        ONESHOT.score(Sums([1.0, float("nan")]), [(images, None)], 0)
    transposed = Sums([1, 2])
    transposed.read = nn.ConvTranspose2d(2, 2, 1)
    with pytest.raises(FgpError, match=r"^read: AOFP ablates inputs of Conv2d and Linear, not of ConvTranspose2d"):
        ONESHOT.score(transposed.eval(), [(images, None)], 0)
