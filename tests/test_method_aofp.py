import copy

import pytest
import torch
import torch.nn.functional as F
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


class Chain(nn.Module):
    """Two normalised convolutions, pooling between them, the second with every option of its geometry, and a linear layer."""

    def __init__(self, relu=torch.relu):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), padding_mode="reflect")
        self.norm2, self.linear, self.relu = nn.BatchNorm2d(5), nn.Linear(5, 4), relu

    def forward(self, x, ablated=()):
        x = torch.relu(self.norm1(self.first(x)))
        x[:, list(ablated)] = 0
        x = self.relu(self.norm2(self.second(F.max_pool2d(x, 2))))
        self.seen = x.detach()
        return self.linear(x.mean((2, 3)))


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


def chain(**options):
    torch.manual_seed(0)
    return randomise(Chain(**options).double())


def damages(model, images, chosen, kept=None):
    structure = Structure(model, images[:1])
    with Ablations(structure, model, images, kept) as ablations:
        ablations.chosen = {leader: torch.tensor(rows) for leader, rows in chosen.items()}
        output = model(images)
        found = ablations.take()
    assert not any(module._forward_hooks for module in model.modules())
    return {leader: values.tolist() for leader, values in found.items()}, output


def literal(model, images, ablated, kept=slice(None)):
    """The definition, by running the whole network with zeros."""
    model = copy.deepcopy(model)
    model(images)
    base = model.seen[:, kept]
    model(images, ablated)
    return float((base - model.seen[:, kept]).square().sum() / base.square().sum())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("relu", [torch.relu, F.relu6, F.relu_, nn.ReLU(inplace=True), nn.Identity()])
def test_damage_is_that_of_the_masked_network(relu, training):
    model, images = chain(relu=relu).train(training), classification()[0]
    plain, state = copy.deepcopy(model), torch.get_rng_state()
    rows = [[0, 3], [5, 1], [2, 4]]
    found, output = damages(model, images, {"first": rows})
    assert found["first"] == pytest.approx([literal(plain, images, row) for row in rows], rel=1e-9)
    kept = torch.tensor([True, False, True, True, False])
    masked, _ = damages(model, images, {"first": rows}, {"second": kept})
    assert masked["first"] == pytest.approx([literal(plain, images, row, kept) for row in rows], rel=1e-9)
    assert torch.equal(output, plain(images))
    plain(images)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_damage_by_hand():
    """Constants 1, 2, 3, 4: summed, t = (sum ablated)^2 / 10^2; apart, t = sum of squares / 30; the linear layer likewise."""
    images = torch.rand(2, 3, 4, 4)
    assert damages(Sums([1, 2, 3, 4], apart=False), images, {"conv": [[0, 1], [1, 3]]})[0]["conv"] == pytest.approx([0.09, 0.36])
    model = Sums([1, 2, 3, 4])
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]))
        model.linear.bias.zero_()
    found, _ = damages(model, images, {"conv": [[0, 1], [1, 3]], "read": [[0, 1], [2, 3]]})
    assert found["conv"] == pytest.approx([5 / 30, 20 / 30])
    assert found["read"] == pytest.approx([(3**2 + 1) / 101, 7**2 / 101])
    assert damages(Sums([0, 0, 0]), images, {"conv": [[1]]})[0]["conv"] == [0]


def test_several_readers_count_together():
    model, images = residual(), classification()[0]
    structure = Structure(model, images, tied=True)
    assert {*structure.consumers("stem")} == {"conv1", "head"}
    with Ablations(structure, model, images) as ablations:
        ablations.chosen = {"stem": torch.tensor([[1, 4]])}
        model(images)
        found = float(ablations.take()["stem"])

    def run(zeros):
        """Return both readers' outputs, the head's behind a branch in which nothing is ablated."""
        with torch.no_grad():
            x = torch.relu(model.norm0(model.stem(images)))
            y = torch.relu(model.norm2(model.conv2(torch.relu(model.norm1(model.conv1(x))))) + x).mean((2, 3))
            x[:, zeros], y[:, zeros] = 0, 0
            return {"conv1": torch.relu(model.norm1(model.conv1(x))), "head": model.head(y)}

    base, ablated = run([]), run([1, 4])
    error = sum(float((base[name] - ablated[name]).square().sum()) for name in base)
    assert found == pytest.approx(error / sum(float(values.square().sum()) for values in base.values()), rel=1e-9)


def test_a_round_credits_random_halves():
    generator, turn = torch.Generator().manual_seed(0), Round([5, 0, 3, 7, 2], 8)
    halves = turn.draw(generator, 3000)
    assert halves.shape == (3000, 2)
    counts = torch.bincount(halves.flatten(), minlength=8)
    assert counts[[1, 4, 6]].sum() == 0
    assert ((counts[[0, 2, 3, 5, 7]] - 1200).abs() < 110).all()  # 4 standard deviations
    assert (halves[:, 0] != halves[:, 1]).all()
    values = torch.tensor([4.0, 9, 1, 3, 9, 0, 9, 2])
    turn.credit(halves, values[halves].sum(1))
    ranked, means = turn.ranked()
    assert ranked.tolist() == [5, 2, 7, 3, 0]
    for unit, mean in zip(ranked.tolist(), means.tolist(), strict=True):
        with_it = [values[half].sum() for half in halves if unit in half]
        assert mean == pytest.approx(float(sum(with_it) / len(with_it)))
    rare = Round([1, 2, 3], 4)
    rare.credit(torch.tensor([[3]]), torch.tensor([0.5]))
    assert rare.ranked()[0].tolist() == [3, 1, 2]
    assert rare.ranked()[1].tolist() == [0.5, float("inf"), float("inf")]


@pytest.mark.parametrize("values", [[8, 3, 5, 1, 7, 2, 6, 4], [2, 5, 1, 3, 4], [1, 3, 2], [2, 1]])
def test_the_search_recovers_a_known_order(values):
    """Read apart, mean t rises with the square of the value, so the order of every round is that of the values."""
    images = torch.rand(40, 3, 2, 2)
    scores = ONESHOT.score(Sums(values), [(images, None)], 0, iterations="1500", images="1")["conv"]
    assert scores.argsort().tolist() == torch.tensor(values).argsort().tolist()
    size, total, rest = len(values), sum(v * v for v in values), sorted(v * v for v in values)
    expected = {}
    while size > 1:
        half = size // 2
        for v in rest[:size]:
            expected[v] = (v + (half - 1) / (size - 1) * (sum(rest[:size]) - v)) / total
        size = half
    assert sorted(scores.tolist()) == pytest.approx(sorted(expected.values()), rel=0.05)


def test_scores_of_layers_that_share_channels_add_up_and_the_rest_is_one():
    torch.manual_seed(0)
    model, images = randomise(build("resnet50", 4, 1 / 32)), torch.randn(6, 3, 16, 16)
    scores = ONESHOT.score(model, [(images, None)], 0, iterations=4)
    structure = Structure(model, images, tied=True)
    for group in structure.prunable:
        assert all(torch.equal(scores[member], scores[group.leader]) for member in group.members)
    alone = ONESHOT.score(Sums([3.0]), [(images, None)], 0)
    assert alone["conv"].tolist() == [1]


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

    def __init__(self, values, budget=0.1, steps=10**6, **options):
        model = Sums(values)
        self.hook = GRADUAL.pruning(budget, **options)
        self.values = {"conv": torch.tensor(values) / 100, "read": torch.full((len(values),), 9.0)}
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


@pytest.mark.parametrize(("steps", "expected"), [(10**6, 1000), (15640, 521), (100, 3), (10, 1)])
def test_iterations_follow_the_length_of_a_short_run(steps, expected):
    assert Alone([1, 2, 3, 4, 5, 6, 7, 8], steps=steps).hook.iterations == expected


@pytest.mark.parametrize(
    ("make", "options", "option"),
    [
        (GRADUAL.pruning, {"iterations": "0"}, "iterations"),
        (GRADUAL.pruning, {"iterations": "1.5"}, "iterations"),
        (GRADUAL.pruning, {"warmup": "-1"}, "warmup"),
        (GRADUAL.pruning, {"theta": "0"}, "theta"),
        (GRADUAL.pruning, {"theta": "small"}, "theta"),
    ],
)
def test_options_are_checked(make, options, option):
    with pytest.raises(FgpError, match=option):
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
    with pytest.raises(FgpError, match=r"^read: AOFP ablates inputs of Conv2d and Linear"):
        ONESHOT.score(transposed.eval(), [(images, None)], 0)
