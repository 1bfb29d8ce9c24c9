"""Layer-wise relevance propagation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import randomise
from scoring_networks import classification, residual
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from fgp import FgpError
from fgp.masking import Masks
from fgp.models import build
from fgp.scoring.relevance import channel_relevances
from fgp.surgery import Structure


def assign(layer, weight, bias):
    layer.weight.data.copy_(torch.tensor(weight).view_as(layer.weight))
    layer.bias.data.copy_(torch.tensor(bias))


def by_hand():
    """One pixel of value 1: a = (2, 3), b = (12, 1), of which 7 is bias."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)).eval()
    assign(model[0], [2.0, 3.0], [0.0, 0.0])
    assign(model[2], [1.0, 1.0, 2.0, -1.0], [7.0, 0.0])
    assign(model[5], [1.0, 2.0, 1.0, -1.0], [-3.0, 5.0])
    return model


@pytest.mark.parametrize(
    ("label", "b", "a"),
    [
        (0, (12 / 14, 2 / 14), (12 / 14 * 2 / 5 + 2 / 14 * 2, 12 / 14 * 3 / 5 - 2 / 14)),
        (1, (2, -1), (2 * 2 / 5 - 2, 2 * 3 / 5 + 1)),
    ],
)
def test_two_layers_by_hand(label, b, a):
    logits, found = channel_relevances(by_hand(), torch.ones(1, 1, 1, 1), torch.tensor([label]))
    assert logits.tolist() == [[11, 16]]
    assert found["2"][0].tolist() == pytest.approx(b)
    assert found["0"][0].tolist() == pytest.approx(a)


class Literal(nn.Module):
    """Max-pool, residual sum, stride, dilation, groups and, behind conv3, negative inputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 3, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.conv4 = nn.Conv2d(6, 5, 1)
        self.linear = nn.Linear(5, 3)

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.bn0(self.stem(images))), 2)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.linear(self.conv4(self.conv3(F.relu(y + x))).mean((2, 3)))


def weighted_loop(x, layer, relevance):
    """Alpha-beta rule of one image by loops: x (C, H, W), relevance of the output (D, P, Q)."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        weight, stride, padding, dilation, groups = weight[:, :, None, None], 1, 0, 1, 1
    else:
        stride, padding, dilation, groups = layer.stride[0], layer.padding[0], layer.dilation[0], layer.groups
    handed = torch.zeros_like(x)
    for d, p, q in torch.cartesian_prod(*map(torch.arange, relevance.shape)).tolist():
        parts = {}
        for c, u, v in torch.cartesian_prod(*map(torch.arange, weight.shape[1:])).tolist():
            channel = d // (len(weight) // groups) * weight.shape[1] + c
            row, column = p * stride - padding + u * dilation, q * stride - padding + v * dilation
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                parts[channel, row, column] = float(x[channel, row, column] * weight[d, c, u, v])
        for place, share in shares(parts).items():
            handed[place] += relevance[d, p, q] * share
    return handed


def shares(parts):
    """Return what each contribution {place: x w} gets of a relevance of 1."""
    plus, minus = sum(z for z in parts.values() if z > 0), sum(z for z in parts.values() if z < 0)
    alpha, beta = (2, 1) if plus and minus else (1, -1)
    return {place: alpha * z / plus if z > 0 else -beta * z / minus for place, z in parts.items() if z}


def literal(model, image, label):
    """Return {convolution: mean relevance (C,)} of one image, operation by operation."""
    with torch.no_grad():
        a = F.relu(model.bn0(model.stem(image[None])))
        x = F.max_pool2d(a, 2)
        h = F.relu(model.bn1(model.conv1(x)))
        y = model.bn2(model.conv2(h))
        s = F.relu(y + x)
        f = model.conv3(s)
        g = model.conv4(f)
    at_mean = weighted_loop(g.mean((2, 3))[0][:, None, None], model.linear, F.one_hot(label, 3).double()[:, None, None])
    at_conv4 = torch.zeros_like(g[0])
    for c in range(5):
        for place, share in shares(dict(enumerate(g[0, c].flatten().tolist()))).items():
            at_conv4[c].view(-1)[place] = at_mean[c, 0, 0] * share
    at_conv3 = weighted_loop(f[0], model.conv4, at_conv4)
    at_sum = weighted_loop(s[0], model.conv3, at_conv3)
    branch = torch.where(at_sum != 0, at_sum * y[0] / (y[0] + x[0]), 0)
    at_conv1 = weighted_loop(h[0], model.conv2, branch)
    at_pool = at_sum - branch + weighted_loop(x[0], model.conv1, at_conv1)
    at_stem = torch.zeros_like(a[0])
    for c, i, j in torch.cartesian_prod(*map(torch.arange, at_pool.shape)).tolist():
        window = a[0, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        k = int(window.argmax())
        at_stem[c, 2 * i + k // 2, 2 * j + k % 2] += at_pool[c, i, j]
    found = {"stem": at_stem, "conv1": at_conv1, "conv2": branch, "conv3": at_conv3, "conv4": at_conv4}
    return {name: relevance.mean((1, 2)) for name, relevance in found.items()}


def test_a_network_by_loops():
    torch.manual_seed(0)
    model = randomise(Literal().double())
    images, labels = classification(count=2, outputs=3)
    _, found = channel_relevances(model, images, labels)
    for n in range(2):
        for name, expected in literal(model, images[n], labels[n]).items():
            torch.testing.assert_close(found[name][n], expected, rtol=1e-9, atol=1e-12)


def totals(network, width, count=3, dtype=torch.float64):
    """Return {convolution: relevance (N,) summed over channels and positions}."""
    torch.manual_seed(0)
    model = randomise(build(network, 5, width).to(dtype))
    sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, out, name=name: sizes.__setitem__(name, out.shape[2:].numel()))
    images, labels = classification(count, 32, 5)
    _, found = channel_relevances(model, images.to(dtype), labels)
    return {name: relevance.sum(1) * sizes[name] for name, relevance in found.items()}


def test_relevance_is_conserved_layer_by_layer():
    for total in totals("vgg16", 1 / 8).values():
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-9, atol=0)


def test_relevance_is_conserved_over_branches():
    found = totals("resnet50", 1 / 4)
    for stage in range(1, 5):
        inside = found[f"layer{stage}.0.conv3"]
        torch.testing.assert_close(inside + found[f"layer{stage}.0.downsample.0"], torch.ones(3).double(), rtol=1e-9, atol=0)
        for conv in ("conv1", "conv2"):
            torch.testing.assert_close(found[f"layer{stage}.0.{conv}"], inside, rtol=1e-9, atol=0)
    torch.testing.assert_close(found["conv1"], torch.ones(3).double(), rtol=1e-9, atol=0)


def test_functions_and_in_place_operations_make_no_difference():
    images, labels = classification()
    modules, functions = (channel_relevances(residual(kind), images, labels)[1] for kind in (False, True))
    assert list(modules) == list(functions)
    assert all(torch.equal(modules[name], functions[name]) for name in modules)


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_the_masked_network_has_the_relevance_of_the_pruned_one(network):
    torch.manual_seed(0)
    model = randomise(build(network, 5, 1 / 16).double())
    images, labels = classification(3, 32, 5)
    structure = Structure(model, images)
    plan = {group.leader: list(range(0, group.channels, 2)) for group in structure.prunable}
    _, expected = channel_relevances(structure.prune(plan), images, labels)
    masks = Masks(structure, model).attach()
    masks.load(plan)
    _, found = channel_relevances(model, images, labels)
    masks.detach()
    for name, relevance in found.items():
        kept = plan.get(name, range(relevance.shape[1]))
        torch.testing.assert_close(relevance[:, kept], expected[name], rtol=1e-6, atol=1e-9)
        gone = [c for c in range(relevance.shape[1]) if c not in kept]
        assert not relevance[:, gone].any()


class Gated(nn.Module):
    """An operation in a layer inside a layer, in front of a layer (by a hook) or in the network's own forward pass."""

    def __init__(self, operation, where="outer.inner"):
        super().__init__()
        self.conv, self.outer, self.last = nn.Conv2d(3, 4, 1), nn.Sequential(), operation if where == "Gated" else nn.Identity()
        self.outer.inner = nn.Identity()
        if where == "outer.inner":
            self.outer.inner.forward = operation
        elif where == "outer":
            self.outer.register_forward_pre_hook(lambda _, args: operation(args[0]))

    def forward(self, x):
        return self.last(self.outer(self.conv(x))).mean((2, 3))


class Unnamed:
    """An operation that has a text but no name."""

    def __call__(self, x):
        return handle_torch_function(self, (x,), x) if has_torch_function((x,)) else x.exp()

    def __str__(self):
        return "unnamed"


@pytest.mark.parametrize("where", ["outer.inner", "outer", "Gated"])
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (torch.sigmoid, "sigmoid"),
        (lambda x: x * x, "mul"),
        (lambda x: x * torch.ones(2, 1, 1, 1, 1), "mul"),
        (lambda x: x + x.exp(), "exp"),
        (lambda x: torch.add(x, x, alpha=2), "add"),
        (lambda x: x.sort(1).values, "sort"),
        (Unnamed(), "unnamed"),
    ],
)
def test_an_operation_without_a_rule_is_named(operation, name, where):
    model = Gated(operation, where).eval()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(FgpError, match=rf"^{where}: .* no rule for the operation {name};"):
        channel_relevances(model, torch.ones(1, 3, 4, 4), torch.tensor([0]))
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("size", [(8, 8), (2, 1), (1, 2)])
def test_segmentation_is_refused(size):
    with pytest.raises(FgpError, match="in classification"):
        channel_relevances(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), torch.ones(1, 3, *size), torch.zeros(1, *size).long())


class Keywords(nn.Module):
    """The same operations with their arguments by position or by name."""

    def __init__(self, named):
        super().__init__()
        self.conv, self.first, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second, self.linear = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.named = named

    def forward(self, x):
        first, norm, second, last = self.first, self.norm, self.second, self.linear
        x, shift = self.conv(x), torch.ones(size=(1,), dtype=x.dtype)
        if not self.named:
            x = F.avg_pool2d(F.conv2d(x, first.weight, first.bias, 2, 1), 2, 1) * 0.5 + shift
            x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
            x = F.max_pool2d(F.conv2d(x, second.weight, second.bias, 1, 1), 2)
            return F.linear(torch.mean(x, (2, 3)), last.weight, last.bias)
        x = F.conv2d(input=x, weight=first.weight, bias=first.bias, stride=2, padding=1)
        x = torch.mul(input=F.avg_pool2d(input=x, kernel_size=2, stride=1), other=0.5) + shift
        statistics = {"running_mean": norm.running_mean, "running_var": norm.running_var}
        x = F.relu(input=F.batch_norm(input=x, **statistics, weight=norm.weight, bias=norm.bias))
        x = F.max_pool2d(input=F.conv2d(input=x, weight=second.weight, bias=second.bias, padding=1), kernel_size=2)
        return F.linear(input=torch.mean(input=x, dim=(2, 3)), weight=last.weight, bias=last.bias)


def test_arguments_may_be_named():
    images, labels = classification(outputs=3)
    found = []
    for named in (False, True):
        torch.manual_seed(0)
        model = randomise(Keywords(named).double())
        logits, relevances = channel_relevances(model, images, labels)
        torch.testing.assert_close(logits, model(images).detach())
        found.append(relevances["conv"])
    torch.testing.assert_close(found[1], found[0])


def test_a_convolution_that_is_called_twice_gets_the_sum():
    """And one that no logit depends on is left out."""

    class Twice(nn.Module):
        def __init__(self, second):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.idle, self.linear = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
            self.b = copy.deepcopy(self.a) if second else self.a

        def forward(self, x):
            self.idle(x)
            return self.linear(self.b(torch.relu(self.a(x))).mean((2, 3)))

    images, labels = classification(outputs=2)
    _, apart = channel_relevances(Twice(second=True).double().eval(), images, labels)
    _, found = channel_relevances(Twice(second=False).double().eval(), images, labels)
    torch.testing.assert_close(found, {"a": apart["a"] + apart["b"]})


def test_what_nothing_contributed_to_hands_nothing_back():
    """A sum that cancels, and a layer that reads zeros only: its output is all bias."""

    class Cancelled(nn.Module):
        def __init__(self, dead):
            super().__init__()
            self.a, self.b, self.c, self.linear = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
            self.minus = copy.deepcopy(self.a)
            for parameter in self.minus.parameters():
                parameter.data.neg_()
            self.dead = dead

        def forward(self, x):
            x = torch.relu(self.a(x) + -1e9) if self.dead else self.a(x) + self.minus(x)
            return self.linear(self.c(self.b(x)).mean((2, 3)))

    torch.manual_seed(0)
    images, labels = classification(outputs=2)
    for dead, layers in ((False, ("a", "minus")), (True, ("a",))):
        _, found = channel_relevances(Cancelled(dead).double().eval(), images, labels)
        assert all(found[name].tolist() == [[0] * 4] * 5 for name in layers)
        assert found["b"].abs().sum() > 0.1


@pytest.mark.parametrize("scale", [1, 100])
def test_sums_that_may_be_rounding_are_none(scale):
    """The image's largest sum of absolute contributions is 10^6: in float32, 100 units of rounding are 11.9 of it."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 7)).eval()
    nn.init.constant_(model[0].weight, 1 / 3)
    rows = [[5e5, -5e5], [5, 4], [8, 4], [-5, -4], [-8, -4], [20, -9], [20, -12]]
    assign(model[2], rows, [0.0] * 7)
    expected = [[2, -1], [0, 0], [8 / 12, 4 / 12], [0, 0], [8 / 12, 4 / 12], [1, 0], [2, -1]]
    for label, values in enumerate(expected):
        images = torch.ones(2, 3, 1, 1) * torch.tensor([1, scale])[:, None, None, None]
        _, found = channel_relevances(model, images, torch.tensor([label, 0]))
        torch.testing.assert_close(found["0"], torch.tensor([values, [2.0, -1]]), rtol=1e-5, atol=0)


def test_relevance_that_is_not_finite_is_refused():
    model = by_hand()
    model[2].weight.data[0, 1] = torch.nan
    with pytest.raises(FgpError, match=r"^[02]: a relevance is NaN or infinite"):
        channel_relevances(model, torch.ones(1, 1, 1, 1), torch.tensor([0]))


class InPlace(nn.Module):
    """A step in place after a convolution whose output is read by several names."""

    def __init__(self, step):
        super().__init__()
        self.conv, self.head, self.relu, self.step = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.ReLU(inplace=True), step

    def forward(self, images):
        return self.head(self.step(self, self.conv(images) * 1)).mean((2, 3))


def statement(operate, read=lambda x: x):
    def step(net, x):
        seen = read(x)
        operate(net, x)
        return seen

    return step


@pytest.mark.parametrize(
    "step",
    [
        statement(lambda net, x: x.relu_()),
        statement(lambda net, x: net.relu(x)),
        statement(lambda net, x: x.mul_(2)),
        statement(lambda net, x: x.add_(x.detach())),
        statement(lambda net, x: x.relu_(), read=lambda x: x[:, :]),
        lambda net, x: torch.cat([x.relu_(), x], 1)[:, :4],
    ],
)
def test_an_operation_in_place_whose_result_is_not_assigned_is_refused(step):
    with pytest.raises(FgpError, match=r"^(head|InPlace): reads a tensor that was changed in place; .* assigned"):
        channel_relevances(InPlace(step).eval(), *classification())


@pytest.mark.parametrize("step", [lambda net, x: x.relu_(), lambda net, x: net.relu(x), lambda net, x: net.relu(x).mul_(2)])
def test_an_operation_in_place_whose_result_is_read_counts_as_any_other(step):
    images, labels = classification()
    torch.manual_seed(0)
    model = InPlace(step).eval()
    factor = 1 + (step(model, torch.ones(1)) == 2).item()
    logits, found = channel_relevances(model, images, labels)
    model.step = lambda net, x: torch.relu(x) * factor
    expected, same = channel_relevances(model, images, labels)
    assert torch.equal(logits, expected)
    assert all(torch.equal(found[name], same[name]) for name in same)
