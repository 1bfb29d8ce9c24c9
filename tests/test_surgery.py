"""Groups, prunable scores, bad plans, and networks on which removal is refused."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
import torchvision
from torch import nn

import fgp
import fgp.models
from fgp.errors import FgpError
from fgp.surgery import Structure

X = torch.randn(1, 3, 32, 32)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return fgp.models.build("resnet50", 10, 0.125)


@pytest.fixture(scope="module")
def segnet():
    return fgp.models.build("segnet", 12, 0.125)


def convs_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def random_scores(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(conv.out_channels, generator=generator) for name, conv in convs_of(model).items()}


def by_leader(structure):
    return {group.leader: group for group in structure.groups}


def test_groups_of_resnet50(resnet):
    groups = Structure(resnet, X).groups
    residual = [group for group in groups if group.residual]
    inside = [group for group in groups if not group.residual]
    assert [len(group.members) for group in residual] == [4, 5, 7, 4]  # blocks of the stage plus its shortcut
    assert all(name.endswith(("conv3", "downsample.0", "shortcut.0")) for group in residual for name in group.members)
    assert len(inside) == 1 + 2 * 16  # the stem, conv1 and conv2
    assert all(group.members == (group.leader,) for group in inside)
    assert all(group.unit == 1 and group.whole is None for group in groups)


def test_groups_of_segnet(segnet):
    groups = Structure(segnet, torch.empty(1, 3, 64, 64)).groups
    coupled = [group for group in groups if len(group.members) > 1]
    assert len(coupled) == 4  # the fifth pooling and unpooling share one tensor's channels already
    assert not any(group.residual for group in groups)
    assert all(group.members[0].startswith("encoder") and group.members[1].startswith("decoder") for group in coupled)
    whole = [group for group in groups if group.whole]
    assert [group.leader for group in whole] == [list(convs_of(segnet))[-1]]
    assert "output" in whole[0].whole


def test_groups_of_a_depthwise_network():
    model = torchvision.models.mobilenet_v2(weights=None, width_mult=0.25)
    groups = by_leader(Structure(model, X))
    assert groups["features.2.conv.0.0"].members == ("features.2.conv.0.0", "features.2.conv.1.0")
    assert not groups["features.2.conv.0.0"].residual
    assert groups["features.4.conv.2"].members == ("features.4.conv.2", "features.5.conv.2", "features.6.conv.2")
    assert groups["features.4.conv.2"].residual


def test_groups_of_a_grouped_network():
    model = torchvision.models.resnext50_32x4d(weights=None)
    structure = Structure(model, X)
    group = by_leader(structure)["layer1.0.conv1"]
    assert (group.members, group.unit, group.residual) == (("layer1.0.conv1", "layer1.0.conv2"), 4, False)
    pruned = structure.prune({"layer1.0.conv1": [0, 9]})
    assert pruned.fgp_plan == {"layer1.0.conv1": [0, 1, 2, 3, 8, 9, 10, 11]}
    assert (pruned.layer1[0].conv2.groups, pruned.layer1[0].conv2.in_channels, pruned.layer1[0].conv2.out_channels) == (2, 8, 8)


def test_full_size_networks_are_traced_without_arithmetic():
    structure = Structure(fgp.models.build("segnet", 12), torch.empty(1, 3, 360, 480, device="meta"))
    assert structure.params() == pytest.approx(29.450e6, rel=0.001)
    assert structure.macs() == pytest.approx(106.39e9, rel=0.001)


def test_prunable_leaves_out_residual_streams_and_outputs(resnet, segnet):
    inside = fgp.prunable(random_scores(resnet), resnet, X)
    assert len(inside) == 33
    assert not any("conv3" in name for name in inside)
    assert len(fgp.prunable(random_scores(resnet), resnet, X, tied=True)) == 37
    assert list(convs_of(segnet))[-1] not in fgp.prunable(random_scores(segnet), segnet, torch.empty(1, 3, 64, 64), tied=True)


def test_prunable_sums_over_the_group(resnet):
    scores = random_scores(resnet)
    structure = Structure(resnet, X, tied=True)
    gathered = structure.gather(scores)
    for group in structure.groups:
        expected = [sum(float(scores[member][channel]) for member in group.members) for channel in range(group.channels)]
        assert gathered[group.leader].tolist() == pytest.approx(expected)


def test_prunable_gives_every_channel_its_units_mean():
    model = torchvision.models.resnext50_32x4d(weights=None)
    scores = random_scores(model)
    values = fgp.prunable(scores, model, X)["layer1.0.conv1"].view(-1, 4)
    both = scores["layer1.0.conv1"].double() + scores["layer1.0.conv2"].double()
    assert torch.allclose(values, both.view(-1, 4).mean(1, keepdim=True).expand(-1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores.update({"layer1.0.conv9": torch.ones(3)}), "layer1.0.conv1"),
        (lambda scores: scores.update({"layer1.0.conv1": torch.ones(3)}), r"layer1.0.conv1: expected shape \(8,\)"),
        (lambda scores: scores["layer1.0.conv1"].fill_(float("nan")), "layer1.0.conv1: not all finite"),
        (lambda scores: scores.pop("layer1.1.conv3"), "coupled with layer1.1.conv3"),
    ],
)
def test_bad_scores(resnet, change, message):
    scores = random_scores(resnet)
    change(scores)
    with pytest.raises(FgpError, match=message):
        fgp.prunable(scores, resnet, X, tied=True)


def test_three_lines_on_a_residual_network(resnet):
    scores = random_scores(resnet)
    with pytest.warns(UserWarning, match="left whole: .*conv3.*tied=True") as caught:
        small = fgp.prune(resnet, fgp.select.cumulative(scores, 0.4), X)
    assert len(caught) == 1
    dense, thin = convs_of(resnet), convs_of(small)
    assert all(thin[name].out_channels == dense[name].out_channels for name in dense if "conv3" in name)
    assert all(thin[name].out_channels < dense[name].out_channels for name in dense if name.endswith(("conv1", "conv2")))


def test_prune_leaves_the_model_alone_and_carries_the_spec(resnet):
    before = copy.deepcopy(resnet.state_dict())
    mode = [module.training for module in resnet.modules()]
    small = fgp.prune(resnet, {"layer1.0.conv1": [1, 0]}, X)
    assert small.fgp_spec == resnet.fgp_spec
    assert small.fgp_plan == {"layer1.0.conv1": [0, 1]}
    assert not getattr(resnet, "fgp_plan", None)
    assert [module.training for module in resnet.modules()] == mode == [module.training for module in small.modules()]
    assert resnet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in resnet.state_dict().items())
    assert torch.equal(small.layer1[0].conv1.weight, resnet.layer1[0].conv1.weight[:2])
    assert not any(parameter.is_meta for parameter in small.parameters())


def test_frozen_parameters_stay_frozen(resnet):
    model = copy.deepcopy(resnet)
    model.layer1[0].conv1.weight.requires_grad_(False)
    small = fgp.prune(model, {"layer1.0.conv1": [0], "layer1.0.conv2": [0]}, X)
    assert not small.layer1[0].conv1.weight.requires_grad
    assert small.layer1[0].conv2.weight.requires_grad


def test_pruning_twice(resnet):
    once = fgp.prune(resnet, {"layer1.0.conv1": [0, 2, 4]}, X)
    twice = fgp.prune(once, {"layer1.0.conv1": [1, 2]}, X)
    assert torch.equal(twice.layer1[0].conv1.weight, resnet.layer1[0].conv1.weight[[2, 4]])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"layer1.0.conv9": [0]}, "closest: .*layer1.0.conv1"),
        ({"layer1.0.bn1": [0]}, "is no Conv2d"),
        ({"layer1.0.conv1": []}, "layer1.0.conv1 keeps no channel"),
        ({"layer1.0.conv1": [0, 8]}, "has 8 channels, index 8"),
        ({"layer1.0.conv1": [-1]}, "index -1"),
        ({"layer1.0.conv1": [1, 1]}, "names a channel twice"),
        ({"layer1.0.conv3": [0], "layer1.1.conv3": [1]}, "layer1.0.conv3 and layer1.1.conv3.*fgp.prunable"),
    ],
)
def test_bad_plans(resnet, plan, message):
    with pytest.raises(FgpError, match=message):
        fgp.prune(resnet, plan, X, tied=True)


def test_tied_entries_that_agree(resnet):
    structure = Structure(resnet, X, tied=True)
    plan = {name: [0, 3] for name in by_leader(structure)["layer1.0.conv3"].members}
    assert structure.prune(plan).fgp_plan == {"layer1.0.conv3": [0, 3]}


def test_bad_example_input(resnet):
    with pytest.raises(FgpError, match="shape"):
        Structure(resnet, torch.ones(3, 32, 32))
    with pytest.raises(FgpError, match=r"does not run on an input of shape \(1, 4, 32, 32\)"):
        Structure(resnet, torch.ones(1, 4, 32, 32))


class Two(nn.Module):
    """Two convolutions with something between and around them."""

    def __init__(self, between=nn.Identity(), second=None, around=None):  # noqa: B008
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.between = between
        self.two = second or nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)
        self.around = around

    def forward(self, x):
        y = torch.relu(self.between(self.one(x)))
        y = self.around(self, y) if self.around else self.two(y)
        return self.head(torch.relu(y))


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def shuffled(x):
    return x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    "mix",
    [lambda x: x.softmax(1), lambda x: x - x.mean(1, keepdim=True), lambda x: x.flip(1), lambda x: x.roll(1, 1), shuffled],
    ids=["softmax", "mean", "flip", "roll", "shuffle"],
)
def test_operations_that_mix_channels_are_refused(mix):
    with pytest.raises(FgpError, match=r"cannot lose these channels exactly|cannot follow the channels"):
        fgp.prune(Two(Apply(mix)), {"one": [0, 1, 2, 5]}, X)


@pytest.mark.parametrize(
    ("model", "names", "reason"),
    [
        (Two(nn.GroupNorm(2, 8)), ["one"], "GroupNorm"),
        (
            Two(second=nn.Conv2d(8, 8, 3, padding=1), around=lambda self, y: self.two(self.two(y))),
            ["one", "two"],
            "more than once",
        ),
        (Two(second=nn.Conv2d(8, 16, 1, groups=8), around=lambda self, y: self.two(y)[:, :8]), ["one", "two"], "in part"),
    ],
    ids=["groupnorm", "reused", "multiplier"],
)
def test_layers_that_cannot_be_followed_stay_whole(model, names, reason):
    plan = {name: [0] for name in names}
    with pytest.warns(UserWarning, match=reason):
        pruned = fgp.prune(model, plan, X, tied=True)
    assert pruned.fgp_plan == {}
    assert torch.equal(pruned(X), model(X))


class OnTheInput(nn.Module):
    """A grouped convolution on the image, a sum with the image, and a layer that is never called."""

    def __init__(self, groups):
        super().__init__()
        self.first = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)
        self.unused = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.last(torch.relu(self.second(self.first(x)) + x))


@pytest.mark.parametrize("groups", [2, 6])
def test_channels_of_the_input_cannot_go(groups):
    model, x = OnTheInput(groups), torch.randn(1, 6, 8, 8)
    with pytest.warns(UserWarning, match="first .*second .*input.*unused .*does not reach") as caught:
        pruned = fgp.prune(model, {"first": [0, 1, 2], "second": [0], "unused": [0]}, x, tied=True)
    assert len(caught) == 1
    assert torch.equal(pruned(x), model(x))


@pytest.mark.parametrize(("groups", "reason"), [(2, "inputs cannot go along"), (6, "network's input")])
def test_grouped_convolution_on_the_image(groups, reason):
    model = nn.Sequential(nn.Conv2d(6, 6, 3, groups=groups), nn.ReLU(), nn.Conv2d(6, 2, 1))
    first, last = Structure(model, torch.randn(1, 6, 8, 8)).groups
    assert reason in first.whole
    assert "output" in last.whole


def test_gating_is_no_residual_sum():
    model = torchvision.models.efficientnet_b0(weights=None)
    structure = Structure(model, X)
    group = by_leader(structure)["features.2.0.block.0.0"]
    assert group.members == ("features.2.0.block.0.0", "features.2.0.block.1.0", "features.2.0.block.2.fc2")
    assert not group.residual


class ViaIndices(nn.Module):
    """Max-unpooling by function calls, with the indices of another branch."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        _, where = nn.functional.max_pool2d(self.left(x), 2, return_indices=True)
        values = nn.functional.max_pool2d(self.right(x), 2)
        return self.last(nn.functional.max_unpool2d(values, where, 2, 2))


def test_unpooling_couples_by_function_too():
    model = ViaIndices()
    structure = Structure(model, torch.empty(1, 3, 18, 18))
    assert [group.members for group in structure.groups if not group.whole] == [("left", "right")]
    assert structure.prune({"left": [1, 4]}).right.out_channels == 2


def test_training_branches_are_pruned_along():
    model = fgp.models.build("deeplabv3", 5, 0.0625)
    x = torch.randn(2, 3, 32, 32)
    structure = Structure(model, x, tied=True)
    pruned = structure.prune({group.leader: [0] for group in structure.prunable}).train()
    logits, auxiliary = pruned(x)
    assert logits.shape == auxiliary.shape == (2, 5, 32, 32)


def test_double_and_half_precision(resnet):
    for dtype in (torch.float64, torch.bfloat16):
        small = fgp.prune(copy.deepcopy(resnet).to(dtype), {"layer1.0.conv1": [0]}, X.to(dtype))
        assert {parameter.dtype for parameter in small.parameters()} == {dtype}


def test_random_state_is_untouched(resnet):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fgp.prune(resnet, {"layer1.0.conv1": [0]}, X)
    assert torch.equal(torch.rand(3), expected)


def test_macs_of_a_plan_do_not_warn(resnet):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Structure(resnet, X).macs({"layer1.0.conv3": [0]}) == Structure(resnet, X).macs()


def test_timm_is_not_imported():
    code = "import sys, fgp.surgery; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_that_run_in_training_mode_only_stay_whole():
    model = fgp.models.build("deeplabv3", 5, 1 / 16)
    structure = Structure(model, torch.empty(1, 3, 64, 64, device="meta"))
    (auxiliary,) = [group for group in structure.groups if group.leader == "auxiliary.0"]
    assert "training mode only" in auxiliary.whole
    assert all(group.leader != "auxiliary.0" for group in structure.prunable)
