import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fgp import cost
from fgp.errors import FgpError
from fgp.models import NETWORKS, build

# docs/design.md and the paper's tables: parameters and MACs, tolerance 0.5 %.
PRINTED = [
    ("vgg16", 10, (3, 32, 32), 14.728e6, 313.20e6),
    ("resnet50", 10, (3, 32, 32), 23.521e6, 1297.83e6),
    ("resnet50", 100, (3, 32, 32), 23.705e6, 1298.01e6),
    ("segnet", 12, (3, 360, 480), 29.450e6, 106.39e9),
    ("deeplabv3", 19, (3, 1024, 2048), 46.00e6, 1414.6e9),
    ("tv_deeplabv3", 19, (3, 1024, 2048), 42.00e6, 1308.6e9),
    ("smp_deeplabv3", 19, (3, 1024, 2048), 39.6e6, 1308.6e9),
]


def on_meta(name, classes, width=1.0):
    with torch.device("meta"):
        return build(name, classes, width)


@pytest.mark.parametrize(("name", "classes", "input_size", "params", "macs"), PRINTED)
def test_printed_costs(name, classes, input_size, params, macs):
    measured = cost.count(on_meta(name, classes), cost.example(input_size))
    assert measured.params == pytest.approx(params, rel=5e-3)
    assert measured.macs == pytest.approx(macs, rel=5e-3)


def test_auxiliary_head_costs_parameters_only():
    model = on_meta("deeplabv3", 19)
    whole = cost.count(model, cost.example((3, 64, 64)))
    head = sum(parameter.numel() for parameter in model.auxiliary.parameters())
    model.auxiliary = nn.Identity()
    assert cost.count(model, cost.example((3, 64, 64))) == cost.Cost(whole.macs, whole.params - head)
    assert head > 4.7e6


@pytest.mark.parametrize(
    ("name", "size"), [("vgg16", (32, 32)), ("resnet50", (32, 32)), ("segnet", (45, 50)), ("deeplabv3", (48, 64))]
)
def test_against_literal_sum_over_layers(name, size):
    """MACs of a convolution: outputs x kernel x input channels a group; of a linear layer: inputs x outputs."""
    torch.manual_seed(0)
    model = build(name, 5, 0.125).eval()
    macs = []

    def add(module, _, output):
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            macs.append(output.numel() * kernel * module.in_channels // module.groups)
        else:
            macs.append(module.in_features * module.out_features)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    literal = sum(macs)
    assert cost.count(build(name, 5, 0.125), cost.example((3, *size))).macs == literal


@pytest.mark.parametrize(("name", "size"), [("vgg16", (32, 32)), ("resnet50", (32, 32)), ("deeplabv3", (48, 64))])
def test_against_fvcore(name, size):
    """fvcore counts convolutions and linear layers alike; it also counts BN and pooling, left out here."""
    from fvcore.nn import FlopCountAnalysis

    torch.manual_seed(0)
    model = build(name, 5, 0.125).eval()
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, *size)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    assert cost.count(model, cost.example((3, *size))).macs == by_operator["conv"] + by_operator["linear"]


class Mixed(nn.Module):
    """Grouped, depthwise, strided and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, groups=3)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, stride=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)

    def forward(self, x):
        return self.up(self.depthwise(self.grouped(x)))


def test_grouped_and_transposed_by_hand():
    grouped, depthwise, up = 6 * 8 * 8 * 9, 6 * 3 * 3 * 9, 6 * 4 * 3 * 3 * 4
    assert cost.count(Mixed(), cost.example((3, 10, 10))).macs == grouped + depthwise + up


def test_macs_are_of_the_whole_batch():
    model = on_meta("vgg16", 10, 0.25)
    one = cost.count(model, torch.empty(1, 3, 32, 32))
    assert cost.count(model, torch.empty(4, 3, 32, 32)) == cost.Cost(4 * one.macs, one.params)


def test_model_is_untouched():
    torch.manual_seed(0)
    model = build("vgg16", 10, 0.125)
    model.features[0].weight.requires_grad_(False)
    model.features[1].eval()
    before = copy.deepcopy(model.state_dict())
    cost.count(model, cost.example((3, 32, 32)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not model.features[1].training
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert not any(module._forward_hooks for module in model.modules())


class NoMeta(nn.Module):
    """Looks at a value, which a meta tensor does not have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return x if x.sum().item() > 1e9 else -x


def test_falls_back_to_a_real_forward():
    model = NoMeta()
    assert cost.count(model, cost.example((3, 5, 5))).macs == 3 * 4 * 25
    assert model.bn.num_batches_tracked == 0
    assert model.training


def test_wrong_input():
    with pytest.raises(FgpError, match="VGG16 fails on an input of 1x4x32x32"):
        cost.count(build("vgg16", 10, 0.125), cost.example((4, 32, 32)))
    with pytest.raises(FgpError, match="16x16"):
        cost.count(on_meta("vgg16", 10), cost.example((3, 16, 16)))


class Gated(nn.Module):
    """Layers with all geometries, by module and by function, a gate, a sum, a concatenation and tokens behind them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=2)
        self.same = nn.Conv2d(6, 6, (3, 1), padding="same", groups=2)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())
        self.weight = nn.Parameter(torch.zeros(4, 12, 2, 2))
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(x)
        x = self.same(x) + self.gate(x) * x
        x = nn.functional.conv2d(torch.cat([x, x.flip(1)], dim=1), self.weight, stride=2)
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Tokens(nn.Module):
    """Products of matrices that are no layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        tokens = self.conv(x).flatten(2)
        return tokens @ tokens.transpose(1, 2)


def by_torch(model, images):
    """MACs of a real forward pass, as torch counts them operation by operation."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(images)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"tv_deeplabv3", "smp_deeplabv3"}))
def test_networks_against_torch(name):
    model, images = build(name, 5, 0.125), torch.zeros(2, 3, 40, 56)
    assert cost.count(model, images).macs == by_torch(model, images)


@pytest.mark.parametrize("model", [Gated(), Tokens(), Mixed()])
def test_functions_against_torch(model):
    images = torch.zeros(2, 3, 19, 22)
    assert cost.count(model, images).macs == by_torch(model, images)


@pytest.mark.parametrize("model", [*map(nn.Sequential, [nn.Conv2d(4, 2, 1), nn.Linear(4, 2)]), nn.Conv2d(2, 4, 1, groups=2)])
def test_channels_that_do_not_fit(model):
    with pytest.raises(FgpError, match="fails on an input of 1x3x8x8"):
        cost.count(model, cost.example((3, 8, 8)))
