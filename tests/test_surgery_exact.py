"""Removed == masked, on every kind of network: the pruned network computes what the dense one computes with channels zeroed."""

import copy
import functools
import re
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fgp
import fgp.models
from fgp.coupling import flatten
from fgp.surgery import Structure

OURS = {
    "vgg16": (10, 0.125, (32, 32)),
    "resnet50": (10, 0.125, (16, 16)),
    "segnet": (12, 0.125, (44, 60)),
    "deeplabv3": (19, 0.0625, (64, 96)),
}
THEIRS = {
    "resnet18": {},
    "resnet50": {"width_per_group": 16},
    "resnext50_32x4d": {},
    "mobilenet_v2": {"width_mult": 0.5},
    "mobilenet_v3_small": {},
    "mnasnet0_5": {},
    "regnet_x_400mf": {},
    "regnet_y_400mf": {},
    "squeezenet1_1": {},
    "googlenet": {"init_weights": False},
    "efficientnet_b0": {},
    "deeplabv3_resnet50": {"weights_backbone": None, "num_classes": 5, "aux_loss": True},
}


class VggWithFlatten(nn.Module):
    """Several positions a channel reach the linear layer; no batch norm; a PReLU; a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.two = nn.Conv2d(8, 6, 3, stride=2)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.three = nn.Conv2d(5, 7, 3)
        self.out = nn.Linear(7 * 4 * 4, 10)

    def forward(self, x):
        x = self.up(torch.relu(self.two(self.act(self.one(x)))))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.three(x)), 4)
        return self.out(x.flatten(1))


def build(name):
    torch.manual_seed(0)
    if name == "flatten":
        model, side = VggWithFlatten(), (13, 13)
    elif name == "densenet":
        model, side = torchvision.models.DenseNet(16, (2, 3, 2, 2), 32), (32, 32)
    elif name.startswith("ours-"):
        classes, width, side = OURS[name[5:]]
        model = fgp.models.build(name[5:], classes, width)
    else:
        model, side = torchvision.models.get_model(name, weights=None, **THEIRS[name]), (48, 48)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.5)
    return model.eval(), torch.randn(1, 3, *side)


@functools.cache
def case(name, tied):
    """Model, input, structure, random plan and the pruned network."""
    model, x = build(name)
    structure = Structure(model, x, tied)
    generator = torch.Generator().manual_seed(1)
    plan = {}
    for group in structure.prunable:
        order = torch.randperm(group.channels, generator=generator)
        plan[group.leader] = sorted(order[: max(1, 2 * group.channels // 3)].tolist())
    return model, x, structure, plan, structure.prune(plan)


def masked_output(model, x, structure, applied):
    """Run the dense network in float64 with the removed channels zeroed where they are final.

    That is behind the batch norm that reads the convolution's output directly, else at the convolution's output itself (all our
    activations map 0 to 0). The channels of a DenseNet get their batch norms later, after concatenation, at each reader.
    """
    model = copy.deepcopy(model).double()
    modules = dict(model.named_modules())
    norms = {}
    made = {}
    hooks = []
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda m, i, o, name=name: made.__setitem__(id(o), (name, o))))
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda m, i, name=name: norms.__setitem__(made[id(i[0])][0], name) if id(i[0]) in made else None
                )
            )
    with torch.no_grad():
        dense = flatten(model(x.double()))
    for hook in hooks:
        hook.remove()

    def zero(name, channels):
        modules[name].register_forward_hook(lambda m, i, o: o.index_fill(1, torch.tensor(channels), 0))

    for group in structure.groups:
        gone = sorted(set(range(group.channels)) - set(applied.get(group.leader, range(group.channels))))
        if not gone:
            continue
        for member in group.members:
            for place, offset in densenet_places(member, modules) or [(norms.get(member, member), 0)]:
                zero(place, [offset + channel for channel in gone])
    with torch.no_grad():
        return dense, flatten(model(x.double()))


def densenet_places(conv, modules):
    """The batch norms that read a DenseNet's concatenated features, and where in them the channels of `conv` lie."""
    if match := re.fullmatch(r"features\.denseblock(\d+)\.denselayer(\d+)\.conv2", conv):
        block, layer = int(match[1]), int(match[2])
    elif match := re.fullmatch(r"features\.transition(\d+)\.conv", conv):
        block, layer = int(match[1]) + 1, 0
    elif conv == "features.conv0":
        block, layer = 1, 0
    else:
        return []
    growth = modules[f"features.denseblock{block}.denselayer1.conv2"].out_channels
    entry = modules[f"features.denseblock{block}.denselayer1.norm1"].num_features
    offset = 0 if layer == 0 else entry + (layer - 1) * growth
    places = []
    later = layer + 1
    while f"features.denseblock{block}.denselayer{later}.norm1" in modules:
        places.append((f"features.denseblock{block}.denselayer{later}.norm1", offset))
        later += 1
    last = f"features.transition{block}.norm"
    return [*places, (last if last in modules else "features.norm5", offset)]


NAMES = [*(f"ours-{name}" for name in OURS), *THEIRS, "densenet", "flatten"]
ALL = [(name, tied) for name in NAMES for tied in (False, True)]


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_removed_equals_masked(name, tied):
    model, x, structure, _, pruned = case(name, tied)
    dense, masked = masked_output(model, x, structure, pruned.fgp_plan)
    with torch.no_grad():
        removed = flatten(copy.deepcopy(pruned).double()(x.double()))
    for before, want, have in zip(dense, masked, removed, strict=True):
        scale = want.abs().max()
        assert (want - have).abs().max() <= 1e-7 * scale
        assert (want - before).abs().max() > 1e-4 * scale


@pytest.mark.parametrize(("name", "tied"), ALL)
def test_cost_is_that_of_the_pruned_network(name, tied):
    model, x, structure, plan, pruned = case(name, tied)
    for network, applied in ((model, None), (pruned, plan)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
        assert structure.macs(applied) == counter.get_total_flops() // 2
        assert structure.params(applied) == sum(parameter.numel() for parameter in network.parameters())
        convs = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
        assert structure.kept(applied) == convs
    assert structure.macs(plan) < structure.macs()
    assert structure.params(plan) < structure.params()


@pytest.mark.parametrize("name", [*(f"ours-{name}" for name in OURS), "resnext50_32x4d", "mobilenet_v2", "googlenet"])
def test_pruned_network_trains(name):
    *_, x, _, _, pruned = case(name, True)
    pruned = copy.deepcopy(pruned).train()
    before = [parameter.detach().clone() for parameter in pruned.parameters()]
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    sum(part.square().mean() for part in flatten(pruned(torch.cat([x, -x])))).backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, pruned.parameters(), strict=True))


@pytest.mark.parametrize("name", OURS)
def test_pruned_network_survives_its_file(name, tmp_path):
    _, x, _, _, pruned = case(f"ours-{name}", True)
    fgp.save(pruned, tmp_path / "pruned.safetensors")
    again = fgp.load(tmp_path / "pruned.safetensors").eval()
    assert again.fgp_spec == pruned.fgp_spec
    assert again.fgp_plan == pruned.fgp_plan
    with torch.no_grad():
        assert torch.equal(pruned(x), again(x))


@pytest.mark.parametrize("name", [*(f"ours-{name}" for name in OURS), "densenet", "flatten", "mobilenet_v2", "resnext50_32x4d"])
def test_one_channel_a_layer_is_enough(name):
    structure = case(name, True)[2]
    pruned = structure.prune({group.leader: [group.channels - 1] for group in structure.prunable})
    convs = [module for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    assert min(conv.out_channels for conv in convs) == 1


def test_no_warning_on_prunable_layers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, structure, plan, _ = case("ours-resnet50", True)
        structure.prune(plan)
