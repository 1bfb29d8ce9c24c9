"""Channels that count as removed: masks, and the constants that removed channels hand on."""

import pytest
import torch
from torch import nn

from fgp.compensation import with_constants
from fgp.masking import Masks
from fgp.surgery import Structure


class Flat(nn.Module):
    """ "c" reads "a" and "b" side by side; the linear layer reads "c" flattened, in bfloat16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(5, 2, 1)
        self.linear = nn.Linear(8, 3, dtype=torch.bfloat16)

    def forward(self, images):
        return self.linear(self.c(torch.cat([self.a(images), self.b(images)], 1)).bfloat16().flatten(1))


class Positions(Flat):
    """The linear layer reads the channels of "c" at each position."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, images):
        return self.linear(self.c(torch.cat([self.a(images), self.b(images)], 1)).flatten(2).transpose(1, 2))


def watched(model):
    """Return the network and what "c" and the linear layer read, {layer: tensor}."""
    read = {}
    for name in ("c", "linear"):
        model.get_submodule(name).register_forward_hook(lambda _, args, __, name=name: read.__setitem__(name, args[0].detach()))
    return model, read


@pytest.mark.parametrize(("network", "gone"), [(Flat, (..., slice(4))), (Positions, (..., 0))])
def test_readers_see_zeros_in_place_of_masked_channels(network, gone):
    model, read = watched(network())
    images = torch.randn(2, 3, 2, 2)
    masks = Masks(Structure(model, images), model)
    model(images)
    dense = dict(read)
    assert masks.gates == {}
    assert all(kept.dtype == torch.bool for kept in masks.kept.values())
    assert masks.attach() is masks
    assert masks.plan() == {"a": [0, 1], "b": [0, 1, 2], "c": [0, 1]}
    masks.load({"a": [0], "c": [0]})
    masks.load({"b": [1, 2], "c": [1]})
    assert masks.plan() == {"a": [0], "b": [1, 2], "c": [1]}
    model(images)
    assert torch.equal(read["c"], dense["c"] * torch.tensor([1, 0, 0, 1, 1])[:, None, None])
    expected = model.c(read["c"]).flatten(1 if network is Flat else 2).to(read["linear"].dtype)
    expected = expected if network is Flat else expected.transpose(1, 2)
    expected[gone] = 0
    assert torch.equal(read["linear"], expected)
    assert masks.gates == {}
    masks.detach()
    model(images)
    assert all(torch.equal(read[name], dense[name]) for name in read)
    masks.attach().detach()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_gates_are_fresh_in_every_pass_with_gradients():
    model, read = watched(Flat())
    images, weights = torch.randn(3, 3, 2, 2), torch.tensor([1, 0, 2])
    masks = Masks(Structure(model, images), model, per_sample=True).attach()
    masks.load({"b": [1]})
    for _ in range(2):
        (model(images)[:, 0] * weights).sum().backward()
        assert {leader: tuple(gate.shape) for leader, gate in masks.gates.items()} == {"a": (3, 2), "b": (3, 3), "c": (3, 2)}
        assert masks.gates["b"].tolist() == [[0, 1, 0]] * 3
        assert all(gate.dtype == torch.float32 for gate in masks.gates.values())
        slope = model.linear.weight[0].view(2, 4).detach().float()
        expected = (read["linear"].float().view(3, 2, 4) * slope).sum(2) * weights[:, None]
        torch.testing.assert_close(masks.gates["c"].grad, expected, rtol=0.02, atol=0.01)
    with torch.no_grad():
        model(images)
    assert masks.gates == {}
    assert not read["c"][:, [2, 4]].any()
    assert read["c"][:, [0, 1, 3]].all()


def test_constants_reach_readers_with_a_bias_or_a_running_mean_only():
    """Pointwise; "3", "5", "7" and "10" read channels that are gone. No weights in norm "1", no statistics in norm "8"."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.Conv2d(4, 3, 1), nn.ReLU(),
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(),
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(),
        nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip
    with torch.no_grad():
        for values in (model[0].bias, model[1].running_var, model[3].bias, model[8].bias):
            values.uniform_(0.5, 1)
    plan = {"0": [1, 3], "3": [0], "5": [2], "7": [0, 1]}
    repaired = with_constants(model, plan, torch.randn(1, 3, 4, 4))
    first, norm, readers = model[0], model[1], {name: model.get_submodule(name).weight.flatten(1) for name in ("3", "10")}
    of_first = torch.relu((first.bias - norm.running_mean) / (norm.running_var + norm.eps).sqrt())
    assert (of_first[[0, 2]] > 0.1).any()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    expected["3.bias"] += readers["3"][:, [0, 2]] @ of_first[[0, 2]]
    expected["11.running_mean"] -= readers["10"][:, 2] * model[8].bias[2]
    for name, value in repaired.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
