"""The check that a pruned network computes what the masked dense one computes."""

import copy

import pytest
import torch
from torch import nn

from fgp import slicing, verification
from fgp.errors import FgpError


class Net(nn.Module):
    """Layers by name and a forward pass that takes the network and its input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype)


DOUBLE = meta(1, 3, 8, 8, dtype=torch.float64)


def constant(value):
    """A network whose output is `value` everywhere."""
    conv = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, value)
    return nn.Sequential(conv).double()


@pytest.mark.parametrize("scale", [-1e4, 1, 1e-4])
def test_tolerance_is_a_millionth_of_the_scale(scale):
    verification.check(constant(scale), constant(scale * (1 + 9e-7)), {}, DOUBLE)
    with pytest.raises(
        FgpError, match=r"^this network cannot lose these channels exactly.*: the output is off by 2\.0e-06 of its"
    ):
        verification.check(constant(scale), constant(scale * (1 + 2e-6)), {}, DOUBLE)


def test_undefined_outputs_may_stay_undefined():
    """The root of noise is NaN where the noise is negative."""
    one, two = (Net(lambda net, x: x[:, :2].sqrt() * net.factor(x), factor=constant(value)) for value in (1, 2))
    verification.check(one, copy.deepcopy(one), {}, DOUBLE)
    with pytest.raises(FgpError, match="the output is off by"):
        verification.check(one, two, {}, DOUBLE)


def test_changed_shapes_and_forward_passes_that_fail():
    dense = nn.Sequential(nn.Conv2d(3, 2, 1))
    with pytest.raises(FgpError, match=r"exactly.*the output's shape changes from \(1, 2, 8, 8\) to \(1, 5, 8, 8\)$"):
        verification.check(dense, nn.Sequential(nn.Conv2d(3, 5, 1)), {}, meta(1, 3, 8, 8))
    with pytest.raises(FgpError, match=r"exactly.*: the pruned network does not run \(RuntimeError: .*channels"):
        verification.check(dense, nn.Sequential(nn.Conv2d(4, 2, 1)), {}, meta(1, 3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_auxiliary_heads_have_to_run_too(dtype):
    def forward(net, x):
        x = net.norm(net.stem(x))
        return (net.head(x), net.auxiliary(x)) if net.training else net.head(x)

    dense = Net(forward, stem=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), head=nn.Conv2d(4, 2, 1), auxiliary=nn.Conv2d(4, 2, 1))
    dense = dense.to(dtype).train()
    verification.check(dense, copy.deepcopy(dense), {}, meta(1, 3, 8, 8, dtype=dtype))
    broken = copy.deepcopy(dense)
    broken.auxiliary = nn.Conv2d(3, 2, 1, dtype=dtype)
    with pytest.raises(FgpError, match="the pruned network does not run"):
        verification.check(dense, broken, {}, meta(1, 3, 8, 8, dtype=dtype))
    assert all(module.training for network in (dense, broken) for module in network.modules())
    assert not any(module._forward_pre_hooks for module in dense.modules())


def layers_in_a_row():
    torch.manual_seed(0)
    layers = {"one": nn.Conv2d(3, 6, 1), "norm": nn.BatchNorm2d(6), "two": nn.Conv2d(6, 6, 1), "last": nn.Linear(6, 2)}
    layers["norm"].running_mean.fill_(0.5)
    return Net(lambda net, x: net.last(net.two(net.norm(net.one(x)).relu()).relu().flatten(2).transpose(1, 2)), **layers).eval()


def test_removed_channels_count_as_zeros():
    """Also for a linear layer that is applied at every position, with its channels last."""
    dense = layers_in_a_row()
    pruned = copy.deepcopy(dense)
    kept = torch.tensor([0, 2, 5])
    for name, axis in (("one", "out"), ("norm", "out"), ("two", "in"), ("two", "out"), ("last", "in")):
        slicing.keep(pruned.get_submodule(name), axis, kept)
    gone = torch.tensor([1, 3, 4])
    verification.check(dense, pruned, {"two": gone, "last": gone}, meta(1, 3, 8, 7))
    for wrong in ({"two": gone}, {"last": gone}, {"two": gone, "last": torch.tensor([1, 3, 5])}, {}):
        with pytest.raises(FgpError, match="the output is off by"):
            verification.check(dense, pruned, wrong, meta(1, 3, 8, 7))


def recorded(accepts):
    """A network that runs on images of one of the sizes only, and the inputs it was given."""
    given = []

    def forward(net, x):
        given.append(x)
        if tuple(x.shape[2:]) not in accepts:
            raise ValueError("wrong size")
        return net.conv(x)

    return Net(forward, conv=nn.Conv2d(3, 2, 1)), given


@pytest.mark.parametrize(
    ("sides", "accepts", "tried"),
    [
        ((96, 40), {(64, 40)}, [(64, 40)]),
        ((96, 80), {(96, 80)}, [(64, 64), (96, 80)]),
        ((64, 64), {(64, 64)}, [(64, 64)]),
    ],
)
def test_image_is_small_where_the_network_takes_it(sides, accepts, tried):
    network, given = recorded(accepts)
    verification.check(network, network, {}, meta(5, 3, *sides))
    for shape, image in zip(tried, given, strict=False):
        assert image.shape == (1, 3, *shape)
        assert image.dtype == torch.float64
        assert image.std() == pytest.approx(1, abs=0.1)
    first = given[0]
    given.clear()
    verification.check(network, network, {}, meta(5, 3, *sides))
    assert torch.equal(given[0], first)


def test_dense_network_that_does_not_run():
    network, given = recorded(set())
    with pytest.raises(FgpError, match=r"^the dense network does not run on an input of shape \(1, 3, 96, 80\): wrong size$"):
        verification.check(network, network, {}, meta(1, 3, 96, 80))
    assert len(given) == 2
