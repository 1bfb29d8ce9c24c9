"""AOFP's ablations, and the rounds of its search."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import randomise
from scoring_networks import classification, residual
from test_method_aofp import Sums
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from fgp.scoring.ablation import Ablations, Round
from fgp.surgery import Structure


class Nameless:
    """An operation of PyTorch's protocol that has no name: a copy."""

    def __call__(self, x):
        return handle_torch_function(self, (x,), x) if has_torch_function((x,)) else x.clone()


class Chain(nn.Module):
    """Two normalised convolutions, pooling between them, the second with every option of its geometry, and a linear layer."""

    def __init__(self, relu=torch.relu):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), padding_mode="reflect")
        self.norm2, self.linear, self.relu = nn.BatchNorm2d(5, eps=0.1), nn.Linear(5, 4), relu

    def forward(self, x, ablated=()):
        x = torch.relu(self.norm1(self.first(x)))
        x[:, list(ablated)] = 0
        x = self.relu(self.norm2(self.second(F.max_pool2d(x, 2))))
        self.seen = x.detach()
        return self.linear(x.mean((2, 3)))


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
@pytest.mark.parametrize(
    "relu",
    [
        *(torch.relu, F.relu6, F.relu_, nn.ReLU(inplace=True), nn.ReLU6(), lambda x: torch.relu(input=x), nn.Identity()),
        Nameless(),
    ],
)
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


def test_damage_of_channels_that_are_flattened():
    """The linear layer reads the ones of one channel, and twice as much of the other, at two positions each."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1, 2]).view(2, 1, 1, 1) / 3)
        model[2].weight.copy_(torch.tensor([[1, 2, 3, 4]]))
    images = torch.ones(1, 3, 2, 1)
    assert damages(model, images, {"0": [[0], [1]]})[0]["0"] == pytest.approx([3**2 / 17**2, 14**2 / 17**2])
    with Ablations(Structure(model, images), model, images) as ablations:
        model(images)  # nothing chosen
        assert ablations.take() == {}


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


def test_a_round_that_is_loaded_goes_on_alone():
    saved = Round([3, 0, 2], 4)
    saved.credit(torch.tensor([[3], [0], [3]]), torch.tensor([1.0, 4, 2]))
    loaded = Round.load(saved.state_dict(), "cpu")
    assert (loaded.competing.tolist(), loaded.units, loaded.ablations) == ([3, 0, 2], 4, 3)
    for turn in (saved, loaded):
        assert [values.tolist() for values in turn.ranked()] == [[3, 0, 2], [1.5, 4, float("inf")]]
    loaded.credit(torch.tensor([[2], [3]]), torch.tensor([1.0, 9]))
    assert [values.tolist() for values in loaded.ranked()] == [[2, 3, 0], [1, 4, 4]]
    assert [values.tolist() for values in saved.ranked()] == [[3, 0, 2], [1.5, 4, float("inf")]]
    assert (loaded.ablations, saved.ablations) == (5, 3)
