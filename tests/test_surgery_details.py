"""Single layers without channels, and what plans and scores mean, on tiny networks with answers by hand."""

import copy
import re

import pytest
import torch
from test_coupling import IMAGES, X, conv, network
from test_verification import Net, meta
from torch import nn
from torch.nn import functional as F

import fgp
from fgp import coupling, plans, slicing
from fgp.errors import FgpError
from fgp.surgery import Structure


def randomised(layer):
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return layer.eval()


# Constructor of a layer by its output and input channels; the axes that can lose channels.
LAYERS = {
    "linear": (lambda out, into: nn.Linear(into, out), ["out", "in"]),
    "linear without bias": (lambda out, into: nn.Linear(into, out, bias=False), ["out", "in"]),
    "conv": (lambda out, into: conv(into, out, (2, 3)), ["out", "in"]),
    "conv without bias": (lambda out, into: conv(into, out, 3, bias=False), ["out", "in"]),
    "transposed": (lambda out, into: nn.ConvTranspose2d(into, out, (2, 3), stride=2), ["out", "in"]),
    "transposed without bias": (lambda out, into: nn.ConvTranspose2d(into, out, 2, bias=False), ["out", "in"]),
    "prelu": (lambda out, _: nn.PReLU(out), ["both"]),
    "norm": (lambda out, _: nn.BatchNorm2d(out), ["both"]),
    "norm without weights": (lambda out, _: nn.BatchNorm2d(out, affine=False), ["both"]),
    "norm without statistics": (lambda out, _: nn.BatchNorm2d(out, track_running_stats=False), ["both"]),
    "two groups": (lambda out, _: conv(out, out, (2, 3), groups=out // 2), ["both"]),
    "depthwise": (lambda out, _: conv(out, out, 3, groups=out, bias=False), ["both"]),
}
CASES = [(name, axis) for name, (_, axes) in LAYERS.items() for axis in axes]


SIZES = {"out": (4, 6), "in": (6, 4), "both": (4, 4)}


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_a_layer_without_some_channels(name, axis):
    """It computes what the whole layer computes with zeros at its input, and looks like a new one of that size."""
    make, _ = LAYERS[name]
    kept = torch.tensor([0, 1, 4, 5])
    dense = randomised(make(6, 6))
    thin = copy.deepcopy(dense)
    slicing.keep(thin, "in" if axis == "in" else "out", kept)
    small = make(*SIZES[axis])
    assert repr(thin) == repr(small)
    assert {key: value.shape for key, value in thin.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}
    assert [type(value) for value in thin._buffers.values()] == [type(v) for v in small._buffers.values()]

    x = torch.randn(2, 6) if "linear" in name else torch.randn(2, 6, 5, 5)
    zeroed, given = torch.zeros_like(x), x if axis == "out" else x[:, kept]
    zeroed[:, kept] = x[:, kept]
    with torch.no_grad():
        whole = dense(x if axis == "out" else zeroed)
        assert torch.allclose(thin(given), whole if axis == "in" else whole[:, kept], atol=1e-6)


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_size_and_cost_of_a_layer(name, axis):
    make, _ = LAYERS[name]
    out, into = SIZES[axis]
    dense, small = make(6, 6), make(out, into)
    assert slicing.sizes(small) == ({"out": out} if "norm" in name or "prelu" in name else {"out": out, "in": into})
    parameters = slicing.parameters(dense, out, into)
    assert parameters == sum(parameter.numel() for parameter in small.parameters())
    assert isinstance(parameters, int)
    if hasattr(small, "in_channels") or hasattr(small, "in_features"):
        macs = slicing.macs_per_position(dense, out, into)
        assert (macs, type(macs)) == (small.weight.numel(), int)


def test_layers_with_one_parameter_for_all_channels():
    shared = nn.PReLU(1)
    before = shared.weight
    slicing.keep(shared, "out", torch.tensor([0, 2]))
    assert shared.weight is before
    assert shared.num_parameters == 1
    assert [slicing.parameters(shared, out, 0) for out in (-3, 0, 5)] == [1, 1, 1]
    two = nn.PReLU(2)
    slicing.keep(two, "out", torch.tensor([1]))
    assert (two.num_parameters, two.weight.shape) == (1, (1,))
    assert [slicing.parameters(nn.PReLU(2), out, 0) for out in (1, 2)] == [1, 2]


def test_layers_inside_a_norm_count_by_themselves():
    norm = nn.BatchNorm2d(4)
    norm.activation = nn.PReLU(4)
    assert slicing.parameters(norm, 3, 0) == 6


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_tensors_stay_frozen(frozen):
    layer = conv(3, 4).to("meta")
    getattr(layer, frozen).requires_grad_(False)
    slicing.keep(layer, "out", torch.tensor([1, 2]))
    assert [layer.weight.requires_grad, layer.bias.requires_grad] == [frozen != "weight", frozen != "bias"]


def mixed():
    """A bit of everything: for the answers see the tests."""

    def forward(net, x):
        x = net.up(net.two(net.act(net.norm(net.one(x)))))
        return net.end(F.adaptive_avg_pool2d(net.three(x).relu(), 2).flatten(1))

    torch.manual_seed(0)
    layers = {"one": conv(3, 6, 3, padding=1), "norm": nn.BatchNorm2d(6), "act": nn.PReLU(6)}
    layers |= {"two": conv(6, 6, 3, stride=2, padding=1, groups=2), "up": nn.ConvTranspose2d(6, 5, 2, stride=2)}
    layers |= {"three": conv(5, 4, bias=False), "idle": conv(4, 4), "end": nn.Linear(16, 10)}
    return Net(forward, **layers)


PLAN = {"one": [1], "three": [3, 0]}


def test_cost_of_a_plan_by_hand():
    structure = Structure(mixed(), X)
    assert structure.positions == {"one": 64, "two": 16, "up": 16, "three": 64, "end": 1}
    assert {type(count) for count in structure.positions.values()} == {int}
    macs = 64 * 6 * 27 + 16 * 6 * 27 + 16 * 6 * 5 * 4 + 64 * 5 * 4 + 16 * 10
    params = (6 * 27 + 6) + 12 + 6 + (6 * 27 + 6) + (6 * 5 * 4 + 5) + 20 + 20 + 170
    fewer_macs = 64 * 3 * 27 + 16 * 3 * 27 + 16 * 3 * 5 * 4 + 64 * 5 * 2 + 8 * 10
    fewer_params = (3 * 27 + 3) + 6 + 3 + (3 * 27 + 3) + (3 * 5 * 4 + 5) + 10 + 20 + 90
    kept, channels = {"one": 3, "two": 3, "three": 2, "idle": 4}, {"one": 6, "two": 6, "three": 4, "idle": 4}
    assert structure.applied(PLAN) == {"one": [0, 1, 2], "three": [0, 3]}
    assert plans.facts(structure, PLAN, True) == {
        "plan": PLAN, "macs": fewer_macs, "dense_macs": macs, "params": fewer_params, "dense_params": params,
        "kept": kept, "channels": channels, "tied": True,
    }  # fmt: skip
    for cost in (structure.macs, structure.params, structure.kept):
        assert cost() == cost(None) == cost({})
    pruned = structure.prune(PLAN)
    assert pruned.fgp_plan == {"one": [0, 1, 2], "three": [0, 3]}
    again = Structure(pruned, X)
    assert (again.macs(), again.params(), again.kept()) == (fewer_macs, fewer_params, kept)


def test_who_makes_and_who_reads_the_channels():
    structure = Structure(mixed(), X)
    assert {name: index.tolist() for name, index in structure.producers("one").items()} == {
        name: [[0], [1], [2], [3], [4], [5]] for name in ("one", "norm", "act", "two")
    }
    assert {name: index.tolist() for name, index in structure.consumers("one").items()} == {"up": [[0], [1], [2], [3], [4], [5]]}
    assert {name: index.tolist() for name, index in structure.consumers("three").items()} == {
        "end": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    }


def test_trace_of_the_same_architecture_is_used(monkeypatch):
    traced = coupling.trace(mixed(), X)
    monkeypatch.setattr(coupling, "trace", None)
    assert Structure(mixed(), X, traced=traced).macs(PLAN) > 0


@pytest.mark.parametrize("example", [[[[[1.0]]]], None, meta(3, 8, 8), meta(1, 1, 3, 8, 8)])
def test_examples_that_are_no_images(example):
    with pytest.raises(FgpError, match=r"^example_input: expected a tensor of shape \(N, C, H, W\)$"):
        Structure(mixed(), example)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "plan: one keeps no channel"),
        ([6], "plan: one has 6 channels, index 6 is out of range"),
        ([0, 1, 7], "plan: one has 6 channels, index 7 is out of range"),
        ([-2], "plan: one has 6 channels, index -2 is out of range"),
        ([4, 3, -1], "plan: one has 6 channels, index -1 is out of range"),
        ([0, 5, 5], "plan: one names a channel twice"),
    ],
)
def test_illegal_indices(indices, message):
    structure = Structure(mixed(), X)
    with pytest.raises(FgpError, match=f"^{message}"):
        structure.applied({"one": indices})
    assert [structure.applied({"one": legal}) for legal in ([0], [5])] == [{"one": [0, 1, 2]}, {"one": [3, 4, 5]}]


def test_layers_that_do_not_exist():
    structure = Structure(mixed(), X)
    with pytest.raises(
        FgpError, match=r"^plan: 'norm' is no Conv2d of this network; closest: (one|two|three|idle)(, (one|two|three|idle)){2}$"
    ):
        structure.applied({"norm": [0]})
    with pytest.raises(
        FgpError, match=r"^scores: 'zzz' is no Conv2d of this network; closest: (one|two|three|idle)(, (one|two|three|idle)){2}$"
    ):
        structure.gather({"zzz": torch.ones(1)})
    no_convs = Structure(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), X)
    with pytest.raises(FgpError, match=r"^plan: '1' is no Conv2d of this network; closest: none, it has no Conv2d$"):
        no_convs.applied({"1": [0]})
    assert (no_convs.macs(), no_convs.params(), no_convs.kept()) == (384, 386, {})


def test_gathered_scores():
    scores = {"a": torch.arange(8.0), "b": torch.ones(8), "c": torch.ones(8)}
    gathered = Structure(network("sum of three"), IMAGES, tied=True).gather(scores)
    assert gathered["a"].dtype == torch.float64
    assert gathered["a"].tolist() == [2.0, 3, 4, 5, 6, 7, 8, 9]
    assert Structure(network("sum of three"), IMAGES).gather(scores) == {}
    assert Structure(network("sum of three"), IMAGES, tied=True).gather({}) == {}
    with pytest.raises(FgpError, match=r"^scores: a is coupled with b, c, which has no scores"):
        Structure(network("sum of three"), IMAGES, tied=True).gather({"a": torch.ones(8)})
    with pytest.raises(FgpError, match=r"^scores of a: expected shape \(8,\), found \(7,\)$"):
        Structure(network("sum"), IMAGES).gather({"a": torch.ones(7)})
    with pytest.raises(FgpError, match=r"^scores of a: not all finite"):
        Structure(network("sum"), IMAGES).gather({"a": torch.full((8,), torch.inf)})
    units = Structure(network("two groups"), IMAGES).gather({"a": torch.arange(8.0), "b": torch.arange(8.0)})
    assert units["a"].tolist() == [3.0] * 4 + [11.0] * 4


def test_tied_is_off_by_default():
    model, scores = network("sum"), {"a": torch.ones(8), "b": torch.ones(8)}
    assert fgp.prunable(scores, model, IMAGES) == {}
    assert list(fgp.prunable(scores, model, IMAGES, tied=True)) == ["a"]
    with pytest.warns(UserWarning, match="left whole"):
        assert fgp.prune(model, {"a": [0]}, IMAGES).fgp_plan == {}
    assert fgp.prune(model, {"a": [0]}, IMAGES, tied=True).b.out_channels == 1


HINT = "; tied=True prunes what reaches a residual sum, together"


@pytest.mark.parametrize(
    ("name", "plan", "left"),
    [
        ("sum", {"a": [0], "b": [2, 1]}, f"a (it reaches a residual sum), b (it reaches a residual sum){HINT}"),
        (
            "sum",
            {"a": range(8), "b": [3], "last": [0]},
            f"b (it reaches a residual sum), last (its channels are the network's output){HINT}",
        ),
        ("gate", {"last": [1]}, "last (its channels are the network's output)"),
        ("a layer that is not reached", {"idle": [1]}, "idle (the forward pass does not reach it)"),
        ("half of a sum", {"a": [1]}, "a (b sees its channels unequally often)"),
    ],
)
def test_warning_about_what_stays_whole(name, plan, left):
    with pytest.warns(UserWarning, match=re.escape(f"left whole: {left}") + "$") as caught:
        pruned = Structure(network(name), IMAGES).prune(plan)
    assert len(caught) == 1
    assert pruned.fgp_plan == {}


@pytest.mark.filterwarnings("error")
def test_whole_layers_may_be_named_whole():
    structure = Structure(network("sum"), IMAGES)
    assert structure.prune({"a": range(8), "b": range(8), "last": [0, 1]}).fgp_plan == {}
    assert structure.applied({"a": [0], "last": [0]}) == {}
    assert Structure(network("sum"), IMAGES, tied=True).applied({"b": [1, 0], "a": [0, 1]}) == {"a": [0, 1]}
    with pytest.raises(
        FgpError, match=r"^plan: b and a share their channels .* that fgp\.prunable returns, or give one entry for the"
    ):
        Structure(network("sum"), IMAGES, tied=True).applied({"b": [1], "a": [0, 1]})


@pytest.mark.parametrize(("name", "plan"), [(name, {"a": [1, 4]}) for name in ("sum", "sum, flattened", "gate", "two groups")])
def test_pruned_networks_are_new(name, plan):
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    pruned = Structure(model, IMAGES, tied=True).prune(plan)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert pruned.a.out_channels == pruned.b.out_channels == (8 if name == "two groups" else 2)
    if name != "two groups":
        assert torch.equal(pruned.a.weight, before["a.weight"][[1, 4]])
