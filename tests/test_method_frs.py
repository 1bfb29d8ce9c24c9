import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import randomise
from scoring_networks import classification, residual, segmentation
from torch import nn

from baselines import frs, frs_oneshot
from fgp import FgpError
from fgp.data import Dataset, Split
from fgp.masking import Masks
from fgp.models import build
from fgp.scoring.relevance import channel_relevances
from fgp.surgery import Structure
from fgp.train import Recipe, fit
from fgp.train.resume import Checkpoint


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
        self.conv4 = nn.Conv2d(6, 5, 2)
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
    def __init__(self, operation):
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 4, 1), nn.Module()
        self.block.forward = operation

    def forward(self, x):
        return self.block(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("operation", "name"), [(torch.sigmoid, "sigmoid"), (lambda x: x * x, "mul"), (lambda x: x + x.exp(), "exp")]
)
def test_an_operation_without_a_rule_is_named(operation, name):
    with pytest.raises(FgpError, match=rf"^block: .* no rule for the operation {name};"):
        channel_relevances(Gated(operation).eval(), torch.ones(1, 3, 4, 4), torch.tensor([0]))


def test_segmentation_is_refused():
    images, labels = segmentation()
    with pytest.raises(FgpError, match="in classification"):
        channel_relevances(nn.Sequential(nn.Conv2d(3, 4, 1)).double().eval(), images, labels)


def definition(model, batches):
    """Return {layer: scores (C,)} by loops over images and classes."""
    images, classes = [], []
    right = {}
    for pictures, labels in batches:
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            logits, found = channel_relevances(model, picture[None], torch.tensor([label]))
            images.append({name: values[0] for name, values in found.items()})
            classes.append(label)
            right.setdefault(label, []).append(int(logits.argmax()) == label)
    accuracy = {label: sum(hits) / len(hits) for label, hits in right.items()}
    scores = {}
    for name in images[0]:
        mean = torch.zeros_like(images[0][name])
        for label, value in accuracy.items():
            own = [image[name] for image, other in zip(images, classes, strict=True) if other == label]
            weight = 1 / (1 + math.exp(-max(accuracy.values()) / value)) if value else 1
            mean += weight * sum(own) / len(own) / len(accuracy)
        scores[name] = mean.abs() / (sum(m**2 for m in mean.tolist()) ** 0.5 + 1e-9)
    return scores


@pytest.mark.parametrize("recognised", ["some", "one class", "none"])
def test_score_is_the_definition(recognised):
    model = residual()
    images, _ = classification(count=12)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    labels = {"some": predicted.clone(), "one class": predicted.clone(), "none": (predicted + 1) % 4}[recognised]
    labels[::3] = (labels[::3] + 1) % 4 if recognised != "none" else labels[::3]
    batches = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    expected = definition(model, batches)
    for data in (batches, [(images, labels)]):
        for name, values in frs_oneshot.score(model, data, 0).items():
            torch.testing.assert_close(values.double(), expected[name], rtol=1e-5, atol=1e-7)
    first = frs_oneshot.score(model, batches, 0, images="7")
    for name, values in definition(model, [(images[:7], labels[:7])]).items():
        torch.testing.assert_close(first[name].double(), values, rtol=1e-5, atol=1e-7)


def test_score_refuses():
    images, labels = classification()
    with pytest.raises(FgpError, match="no image"):
        frs_oneshot.score(residual(), [], 0)
    with pytest.raises(FgpError, match="option images"):
        frs_oneshot.score(residual(), [(images, labels)], 0, images="few")
    with pytest.raises(FgpError, match="training mode"):
        frs_oneshot.score(residual().train(), [(images, labels)], 0)


def dataset(count=24):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(count, dtype=torch.uint8) % 3)
    return Dataset(split, split, tuple("abc"), 3, (0.5,) * 3, (0.25,) * 3, "classification", 255, "test")


class Steps(nn.Module):
    """A small network with 16 + 24 channels to prune."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm_a = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.b, self.norm_b = nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24)
        self.linear = nn.Linear(24, 3)

    def forward(self, x):
        return self.linear(F.relu(self.norm_b(self.b(F.relu(self.norm_a(self.a(x)))))).mean((2, 3)))


RISING = {"a": torch.arange(16.0), "b": torch.arange(24.0) + 0.5}


def train(model, hook, epochs=4, checkpoint=None):
    recipe = Recipe(epochs=epochs, batch_size=12, lr=0.05, momentum=0.9, weight_decay=1e-4, schedule="cosine")
    data = dataset()
    return fit(model, data.train, data, recipe, 0, "cpu", hook=hook, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("epochs", "options", "events"),
    [
        (200, {}, list(range(15, 151, 15))),
        (160, {}, list(range(12, 121, 12))),
        (10, {}, [1, 2, 3, 4, 5, 6, 7]),
        (4, {}, [1, 2, 3]),
        (1, {}, [1]),
        (10, {"interval": "0.3", "until": "1"}, [3, 6, 9]),
        (10, {"interval": 0.9, "until": 0.5}, [5]),
    ],
)
def test_events_follow_the_epochs(epochs, options, events):
    hook = frs.pruning(0.5, **options)
    images, labels = classification(size=32)
    hook.begin(SimpleNamespace(model=Steps(), batches=[(images.float(), labels)], steps=2 * epochs, steps_per_epoch=2))
    hook.masks.detach()
    assert hook.events == events


@pytest.mark.parametrize(("network", "width"), [("vgg16", 1 / 8), ("resnet50", 1 / 16)])
def test_networks_reach_the_budget_and_train_to_the_end(network, width):
    torch.manual_seed(0)
    model = build(network, 3, width)
    hook = frs.pruning(0.4, images="12")
    history = train(model, hook, epochs=3)
    assert len(history.losses) == 3
    assert hook.structure.macs(hook.plan) == pytest.approx(0.4 * hook.structure.macs(), rel=0.01)
    assert all(hook.plan.values())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:budget")
def test_as_many_channels_go_at_every_event(monkeypatch):
    monkeypatch.setattr(frs_oneshot, "score", lambda *_, **__: RISING)
    hook, left = frs.pruning(0.3), []
    after_epoch = hook.after_epoch

    def watched(epoch):
        after_epoch(epoch)
        assert hook.run.model.training
        left.append(sum(map(len, hook.plan.values())))

    hook.after_epoch = watched
    train(Steps(), hook, epochs=6)
    gone = [before - after for before, after in zip([40, *left], left, strict=False)]
    assert hook.events == [1, 2, 3, 4]
    assert min(gone[:4]) >= 3
    assert max(gone[:4]) - min(gone[:4]) <= 1
    assert gone[4:] == [0, 0]


@pytest.mark.filterwarnings("ignore:budget")
def test_the_weakest_of_all_layers_go_and_the_last_of_a_layer_stays(monkeypatch):
    monkeypatch.setattr(frs_oneshot, "score", lambda *_, **__: {**RISING, "b": RISING["b"] + 100})
    hook = frs.pruning(0.055)
    train(Steps(), hook, epochs=4)
    kept = hook.plan["b"]
    assert hook.plan["a"] == [15]
    assert 1 < len(kept) < 24
    assert kept == list(range(24 - len(kept), 24))


def test_budget_one_only_trains():
    hook = frs.pruning(1.0)
    assert len(train(Steps(), hook, epochs=2).losses) == 2
    assert hook.plan == {"a": list(range(16)), "b": list(range(24))}


@pytest.mark.filterwarnings("ignore:budget")
def test_an_interrupted_run_goes_on_to_the_same_network(tmp_path):
    straight, hook = Steps(), frs.pruning(0.3)
    train(straight, hook)
    for stop in (1, 3):
        checkpoint = Checkpoint(tmp_path / f"{stop}", "key", seconds=0)

        first, resumed = frs.pruning(0.3), frs.pruning(0.3)
        after_epoch = first.after_epoch

        def interrupt(epoch, after_epoch=after_epoch, stop=stop):
            if epoch > stop:
                raise KeyboardInterrupt
            after_epoch(epoch)

        first.after_epoch = interrupt
        with pytest.raises(KeyboardInterrupt):
            train(Steps(), first, checkpoint=checkpoint)
        model = Steps()
        train(model, resumed, checkpoint=checkpoint)
        assert resumed.plan == hook.plan
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), straight.state_dict().values(), strict=True))


@pytest.mark.parametrize("options", [{"interval": "often"}, {"interval": -0.1}, {"until": 1.5}, {"images": 0}, {"images": "1.5"}])
def test_options_are_checked(options):
    with pytest.raises(FgpError, match=f"option {next(iter(options))}"):
        frs.pruning(0.5, **options)
