"""Tracing and grouping: which channels go together, on tiny networks with answers by hand."""

import copy
import math

import pytest
import torch
from test_verification import Net, meta
from torch import nn
from torch.nn import functional as F

from fgp import coupling, groups
from fgp.errors import FgpError
from fgp.surgery import Structure

X = meta(1, 3, 8, 8)
IMAGES = meta(2, 6, 8, 8)


def conv(into, out, kernel=1, **options):
    return nn.Conv2d(into, out, kernel, **options)


# Networks on 6 x 8 x 8 images: layers and forward pass, and {leader: (members, unit, residual, why it stays whole)}. The last
# convolution, `last`, makes the output.
NETWORKS = {
    "sum": (
        {"a": conv(6, 8), "b": conv(6, 8), "last": conv(8, 2)},
        lambda net, x: net.last((net.a(x) + net.b(x)).relu()),
        {"a": ("ab", 1, True, None)},
    ),
    "sum, flattened": (
        {"a": conv(6, 8), "b": conv(6, 8), "end": nn.Linear(512, 2)},
        lambda net, x: net.end((net.a(x) + net.b(x)).flatten(1)),
        {"a": ("ab", 1, True, None)},
    ),
    "sum with itself": (
        {"a": conv(6, 8), "last": conv(8, 2)},
        lambda net, x: net.last((y := net.a(x)) + y),
        {"a": ("a", 1, False, None)},
    ),
    "sum of three": (
        {"a": conv(6, 8), "b": conv(8, 8), "c": conv(8, 8), "last": conv(8, 2)},
        lambda net, x: net.last((z := (y := net.a(x)) + net.b(y)) + net.c(z)),
        {"a": ("abc", 1, True, None)},
    ),
    "sum with a constant": (
        {"a": conv(6, 8), "last": conv(8, 2)},
        lambda net, x: net.last(net.a(x) + 1),
        {"a": ("a", 1, False, None)},
    ),
    "gate": (
        {"a": conv(6, 8), "b": conv(6, 8), "last": conv(8, 2)},
        lambda net, x: net.last((net.a(x).sigmoid() * net.b(x)).relu()),
        {"a": ("ab", 1, False, None)},
    ),
    "gate beside others": (
        {"a": conv(6, 8), "b": conv(6, 8), "c": conv(6, 5), "last": conv(13, 2)},
        lambda net, x: net.last(torch.cat([net.a(x) * net.b(x), net.c(x)], 1)),
        {"a": ("ab", 1, False, None), "c": ("c", 1, False, None)},
    ),
    "groups": (
        {"a": conv(6, 12), "b": conv(12, 12, groups=3), "c": conv(12, 12, groups=2), "last": conv(12, 2)},
        lambda net, x: net.last(net.c(net.b(net.a(x)))),
        {"a": ("abc", 12, False, None)},
    ),
    "two groups": (
        {"a": conv(6, 8), "b": conv(8, 8, groups=2), "last": conv(8, 2)},
        lambda net, x: net.last(net.b(net.a(x))),
        {"a": ("ab", 4, False, None)},
    ),
    "depthwise, summed": (
        {"a": conv(6, 8), "b": conv(8, 8, groups=8), "last": conv(8, 2)},
        lambda net, x: net.last((y := net.a(x)) + net.b(y)),
        {"a": ("ab", 1, False, None)},
    ),
    "groups that widen": (
        {"a": conv(6, 8), "b": conv(8, 16, groups=8), "last": conv(16, 2)},
        lambda net, x: net.last(net.b(net.a(x))),
        {"a": ("ab", 2, False, "shares channels with b in part only")},
    ),
    "groups behind others": (
        {"a": conv(6, 4), "b": conv(6, 4), "c": conv(8, 8, groups=2), "last": conv(8, 2)},
        lambda net, x: net.last(net.c(torch.cat([net.a(x), net.b(x)], 1))),
        {"a": ("abc", 4, False, "shares channels with c in part only")},
    ),
    "transposed groups": (
        {"a": conv(6, 8), "up": nn.ConvTranspose2d(8, 8, 2, groups=2), "last": conv(8, 2)},
        lambda net, x: net.last(net.up(net.a(x))),
        {"a": ("a", 1, False, "shares channels with up in part only")},
    ),
    "groups on the image": (
        {"a": conv(6, 6, groups=2), "last": conv(6, 2)},
        lambda net, x: net.last(net.a(x)),
        {"a": ("a", 3, False, "it is a grouped convolution whose inputs cannot go along")},
    ),
    "used twice": (
        {"a": conv(8, 8), "b": conv(6, 8), "c": conv(8, 4), "last": conv(4, 2)},
        lambda net, x: net.last(net.c(net.a(net.a(net.b(x))))),
        {"a": ("ab", 1, False, "its weights are used more than once in a forward pass"), "c": ("c", 1, False, None)},
    ),
    "sum with the image": (
        {"a": conv(6, 6), "b": conv(6, 6), "last": conv(6, 2)},
        lambda net, x: net.last(net.a(x) + x + net.b(x)),
        {"a": ("ab", 1, True, "its channels are tied to those of the network's input")},
    ),
    "halves multiplied": (
        {"a": conv(6, 8), "last": conv(4, 2)},
        lambda net, x: net.last(math.prod(net.a(x).chunk(2, 1))),
        {"a": ("a", 1, False, "last sees its channels unequally often")},
    ),
    "half of a sum": (
        {"a": conv(6, 8), "b": conv(6, 4), "last": conv(4, 2)},
        lambda net, x: net.last(net.a(x)[:, :4] + net.b(x)),
        {"a": ("ab", 1, True, "b sees its channels unequally often")},
    ),
    "a norm of groups": (
        {"a": conv(6, 8), "norm": nn.GroupNorm(2, 8), "last": conv(8, 2)},
        lambda net, x: net.last(net.norm(net.a(x))),
        {"a": ("a", 1, False, "its channels pass through GroupNorm, which cannot lose single channels")},
    ),
    "a parameter of its own": (
        {"a": conv(6, 8), "factor": nn.Parameter(torch.ones(1, 8, 1, 1)), "last": conv(8, 2)},
        lambda net, x: net.last(net.a(x) * net.factor),
        {"a": ("a", 1, False, "its channels pass through Parameter, which cannot lose single channels")},
    ),
    "a layer that is not reached": (
        {"a": conv(6, 8), "idle": conv(8, 8), "last": conv(8, 2)},
        lambda net, x: net.last(net.a(x)),
        {"a": ("a", 1, False, None)},
    ),
    "an auxiliary head": (
        {"a": conv(6, 8), "b": conv(8, 4), "c": conv(4, 2), "last": conv(8, 2)},
        lambda net, x: (net.last(y := net.a(x)), net.c(net.b(y))) if net.training else net.last(net.a(x)),
        {
            "a": ("a", 1, False, None),
            "b": ("b", 1, False, "it runs in training mode only, where nothing says what its channels are worth"),
            "c": ("c", 1, False, "it runs in training mode only, where nothing says what its channels are worth"),
        },
    ),
}


def network(name):
    layers, forward, _ = NETWORKS[name]
    return Net(forward, **copy.deepcopy(layers))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NETWORKS)
def test_groups(name):
    model = network(name)
    found = {g.leader: ("".join(g.members), g.unit, g.residual, g.whole) for g in Structure(model, IMAGES).groups}
    if hasattr(model, "last"):
        assert found.pop("last") == ("last", 1, False, "its channels are the network's output")
    assert found == NETWORKS[name][2]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("by_a", "by_b"),
    [([[0], [1], [2]], [[3], [4]]), ([[0], [1]], [[0], [2]])],
    ids=["unequal numbers of channels", "unequal numbers of positions"],
)
def test_layers_that_see_channels_unequally_often(by_a, by_b):
    shared = [coupling.Touched(name, "out", torch.tensor([[0], [1]])) for name in "ab"]
    outputs = {
        name: coupling.Outputs((*shared, coupling.Touched("reader", "in", torch.tensor(read))), summed=False, whole=None)
        for name, read in (("a", by_a), ("b", by_b))
    }
    modules = {"a": conv(3, 2), "b": conv(3, 2), "reader": conv(5, 1)}
    (group,), touched = groups.unite(outputs, modules)
    assert (group.members, group.whole) == (("a", "b"), "a layer sees its channels unequally often")
    assert touched == {"a": {}}


def test_positions_add_up_over_the_calls():
    assert Structure(network("used twice"), IMAGES).positions == {"a": 128, "b": 64, "c": 64, "last": 64}


def test_skeletons_hold_no_values():
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)).double()
    model[0].bias.requires_grad_(False)
    shell = coupling.skeleton(model)
    state, real = shell.state_dict(), model.state_dict()
    assert all(value.is_meta for value in state.values())
    assert {name: (v.shape, v.dtype) for name, v in state.items()} == {name: (v.shape, v.dtype) for name, v in real.items()}
    assert all(parameter.requires_grad for parameter in shell.parameters())
    assert not any(value.is_meta for value in real.values())


def test_flatten_and_set_branches():
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [len(t) for t in coupling.flatten({"out": (one, [two]), "more": {"aux": three}, "loss": 0.5, "no": None})] == [1, 2, 3]
    model = nn.Sequential(nn.Sequential(conv(3, 4), nn.Dropout()), nn.ReLU())
    for mode in (True, False):
        coupling.set_branches(model.train(mode))
        assert {name: module.training for name, module in model.named_modules()} == {
            "": True, "0": True, "0.0": False, "0.1": False, "1": False,
        }  # fmt: skip


def test_networks_that_cannot_be_traced():
    with pytest.raises(
        FgpError, match=r"^the network does not run on an input of shape \(1, 3, 8, 8\) \(RuntimeError: .*values$"
    ):
        Structure(network("sum"), X)
    doubled = Net(lambda net, x: net.last(torch.cat([x, x], 1)), last=conv(6, 2, groups=2))
    with pytest.raises(FgpError, match=r"^torch-pruning cannot follow .*channel shuffle \(TypeError: .*concatenations$"):
        Structure(doubled, X)


@pytest.mark.parametrize(
    ("sides", "pool", "output_size", "enlarged"),
    [
        ((16, 16), {"kernel_size": 2}, None, 256),
        ((16, 15), {"kernel_size": (2, 3)}, None, 240),
        ((16, 15), {"kernel_size": (2, 3), "stride": (2, 1)}, None, 240),
        ((15, 15), {"kernel_size": 3, "stride": 2, "padding": 1}, None, 225),
        ((16, 15), {"kernel_size": 3, "stride": 3, "padding": (1, 0)}, None, 240),
        ((16, 16), {"kernel_size": 2}, (17, 16), 272),
        ((16, 16), {"kernel_size": 2}, (1, 4, 16, 17), 272),
    ],
)
def test_unpooling(sides, pool, output_size, enlarged):
    """The trace enlarges as unpooling does, and couples the channels with those of the pooling that gave the indices."""

    def forward(net, x):
        _, where = F.max_pool2d(net.left(x), **pool, return_indices=True)
        large = F.max_unpool2d(F.max_pool2d(net.right(x), **pool), where, **pool, output_size=output_size)
        assert large[0, 0].numel() == enlarged
        return net.last(large.relu())

    model = Net(forward, left=conv(3, 4), right=conv(3, 4), last=conv(4, 2))
    x = torch.randn(1, 3, *sides)
    model(x)
    structure = Structure(model, x)
    assert structure.positions == {"left": math.prod(sides), "right": math.prod(sides), "last": enlarged}
    assert [(group.members, group.residual) for group in structure.groups] == [(("left", "right"), False), (("last",), False)]


def test_layers_that_are_called_twice_count_twice():
    def forward(net, x):
        y = net.linear(net.first(x).mean((2, 3)))
        return net.linear(y)

    net = Net(forward, first=conv(3, 4), linear=nn.Linear(4, 4))
    assert Structure(net, X).positions == {"first": 64, "linear": 2}
