"""DCP: losses, greedy selection and stages, against values worked out by hand and literal loops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import randomise
from scoring_networks import residual
from test_train_loop import RECIPE, classification, segmentation, weights_equal
from torch import nn

import baselines
from fgp import FgpError, partial
from fgp.data import Dataset, Split
from fgp.models import build
from fgp.partial import forward_to
from fgp.select import cumulative, match_macs
from fgp.surgery import Structure
from fgp.train import Recipe, discrimination, fit
from fgp.train.admission import Objective, Reader, Settings, admission_order
from fgp.train.discrimination import Discrimination, Head
from fgp.train.resume import Checkpoint

NO_TRAINING = Recipe(epochs=0, lr=0.1)


def training(**options):
    return baselines.get("dcp").training(**{"images": 16, "turns": 3, **options})


def three_layers():
    torch.manual_seed(0)
    layers = []
    for before, after in ((3, 6), (6, 5), (5, 4)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return randomise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)))


def images32(count=40):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(count, dtype=torch.uint8) % 4)
    return Dataset(split, split, tuple("abcd"), 4, (0.5,) * 3, (0.25,) * 3, "classification", 255, "test")


class Squared:
    """L = mean over n of (sum over k of W[k] x[n][k] - wanted[n])^2, summed over linear layers."""

    def __init__(self, weights, x):
        self.layers = []
        for row in weights:
            layer = nn.Linear(len(row), 1, bias=False).double()
            layer.weight.data[:] = torch.tensor([row])
            self.layers.append(layer.requires_grad_(False))
        self.x = torch.tensor(x, dtype=torch.float64)
        self.wanted = [layer(self.x) for layer in self.layers]

    def __call__(self):
        return sum((layer(self.x) - wanted).square().mean() for layer, wanted in zip(self.layers, self.wanted, strict=True))

    def order(self, unit=1, positions=1, **settings):
        index = torch.arange(self.x.shape[1]).view(-1, positions)
        readers = [Reader(layer, index) for layer in self.layers]
        return admission_order(readers, self, unit, Settings(**settings)).tolist()


@pytest.mark.parametrize(
    ("weights", "x", "options", "expected"),
    [
        # dL/dW_k = -2/3 W_k a_k^2 for images x_n = a_n e_n: 4, 3 and 2 (times 2/3); by |W_k| the order were 1, 2, 0
        ([[1.0, 3, 2]], [[2.0, 0, 0], [0, 1, 0], [0, 0, 1]], {}, [0, 1, 2]),
        # channels 0 and 1 are twins, the slopes are -6, -6, -2; with W_0 = 3 and no step they become -3 and -2
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"iterations": 0}, [0, 1, 2]),
        # a step of 0.5 * 3 makes W_0 4.5, the slope of its twin falls to -1.5
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"lr": 0.5}, [0, 2, 1]),
        # both at once
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"lr": 0.5, "turns": 2}, [0, 1, 2]),
        # two readers: slopes (-4, -1, -3) and (0, -4, -3), norms 4, sqrt 17 and sqrt 18
        ([[4.0, 1, 3], [0.0, 4, 3]], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], {}, [2, 1, 0]),
        # units of two channels: 16 + 0 against 1 + 9
        ([[1.0, 3, 0, 4]], [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], {"unit": 2}, [2, 3, 0, 1]),
        # two inputs hold a channel: the same numbers
        ([[1.0, 3, 0, 4]], [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], {"positions": 2}, [1, 0]),
        # L = 20, 6.5, 2, 0 without steps: changes of 0.675, 0.225 and 0.1 of L(0)
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"iterations": 0, "adapt": 0.7}, [0]),
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"iterations": 0, "adapt": 0.3}, [0, 1]),
        ([[3.0, 3, 2]], [[1.0, 1, 0], [0, 0, 1]], {"iterations": 0, "adapt": 0.2}, [0, 1, 2]),
    ],
)
def test_order_by_hand(weights, x, options, expected):
    loss = Squared(weights, x)
    assert loss.order(**options) == expected
    for layer, row in zip(loss.layers, weights, strict=True):
        assert layer.weight[0].tolist() == row
        assert not layer.weight.requires_grad


@pytest.mark.parametrize(
    ("layer", "axis"), [(nn.Conv2d(4, 3, 3), 1), (nn.Linear(4, 3), 1), (nn.ConvTranspose2d(4, 3, 2), 0)], ids=str
)
def test_weights_by_input(layer, axis):
    reader = Reader(layer, torch.tensor([[0, 1], [2, 3]]))
    for k in range(4):
        assert torch.equal(reader.weights[k], layer.weight.detach().select(axis, k))
    reader.weights[2] = 0
    assert not layer.weight.detach().select(axis, 2).any()


def test_head_is_the_formula():
    torch.manual_seed(0)
    head, maps = Head(3, 2).train(), torch.randn(4, 3, 5, 5)
    nn.init.normal_(head.norm.weight)
    nn.init.normal_(head.norm.bias)
    nn.init.normal_(head.linear.bias)
    logits = head(maps)
    pooled = torch.zeros(4, 3)
    for c in range(3):
        values = maps[:, c]
        scaled = (values - values.mean()) / math.sqrt(values.var(unbiased=False) + 1e-5)
        for n in range(4):
            activations = [
                max(0.0, head.norm.weight[c].item() * v + head.norm.bias[c].item()) for v in scaled[n].flatten().tolist()
            ]
            pooled[n, c] = sum(activations) / 25
    for n in range(4):
        for d in range(2):
            expected = sum(head.linear.weight[d, c] * pooled[n, c] for c in range(3)) + head.linear.bias[d]
            assert logits[n, d].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("position", ["6", None])
def test_objective_is_the_formula(position):
    dense, model = three_layers(), three_layers()
    model[3].weight.data *= 0.5
    torch.manual_seed(1)
    head = Head(5, 4).eval() if position else nn.Identity()
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    value = Objective(model, dense, ["3"], position, head, images, labels, 0.25)()
    inner = model[:6](images)
    difference = model[3](model[:3](images)) - dense[3](dense[:3](images))
    l_m = sum(d * d for d in difference.flatten().tolist()) / (6 * 5 * 64)
    logits = head(inner) if position else model(images)
    l_s = -sum(math.log(torch.softmax(logits[n], 0)[label].item()) for n, label in enumerate(labels)) / 6
    assert value.item() == pytest.approx(l_m + 0.25 * l_s, rel=1e-4)


def test_forward_stops_at_the_position():
    model, images = three_layers(), torch.randn(2, 3, 8, 8)
    after = []
    model[6].register_forward_hook(lambda *_: after.append(1))
    maps, outputs = forward_to(model, images, "6", ["0", "3"])
    assert torch.equal(maps, model[:6](images))
    assert list(outputs) == ["0", "3"]
    assert torch.equal(outputs["3"], model[3](model[:3](images)))
    assert not after
    assert len(model[6]._forward_pre_hooks) == len(model[3]._forward_hooks) == 0


def test_replay_changes_nothing():
    model, images = residual().float(), torch.randn(3, 3, 8, 8)
    calls = list(partial.layer_inputs(model, images))
    assert calls == ["stem", "conv1", "conv2", "head"]
    for layer in calls:
        expected = model(images)
        with partial.replayed(model, images, layer):
            for _ in range(2):  # the residual sum is written into the output of a layer
                assert torch.equal(model(images), expected)
            before = [name for name in calls if "forward" in vars(model.get_submodule(name))]
            assert before == calls[: calls.index(layer)]
        assert torch.equal(model(images), expected)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_layer_called_twice_is_refused():
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(FgpError, match=r"^0: called more than once"):
        partial.layer_inputs(nn.Sequential(conv, nn.ReLU(), conv).eval(), torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("network", "losses", "expected"),
    [
        ("vgg16", None, ["features.17", "features.34"]),  # after 5 and 10 of 13 layers
        ("vgg16", 3, ["features.14", "features.27", "features.40"]),
        ("resnet50", None, ["layer2.2.conv1", "layer3.3.conv1", "layer4.2.conv1"]),  # in front of blocks 6, 11 and 16
    ],
)
def test_positions_are_those_of_the_repository(network, losses, expected):
    model, images = build(network, 4, 1 / 16).eval(), torch.randn(1, 3, 32, 32)
    assert discrimination.loss_positions(Structure(model, images), partial.layer_inputs(model, images), losses) == expected


def test_fewer_positions_than_losses():
    model, images = three_layers(), torch.randn(1, 3, 8, 8)
    assert discrimination.loss_positions(Structure(model, images), partial.layer_inputs(model, images), 5) == ["3", "6"]
    model = residual().float()
    assert discrimination.loss_positions(Structure(model, images), partial.layer_inputs(model, images), None) == ["conv1"]


def test_images_are_spread():
    batches = [(torch.arange(4.0 * k, 4 * k + 4).view(4, 1, 1, 1), torch.arange(4 * k, 4 * k + 4)) for k in range(3)]
    for count, expected in ((4, [0, 4, 7, 11]), (1, [0]), (99, list(range(12)))):
        images, labels = discrimination.spread(batches, count)
        assert labels.tolist() == images.flatten().long().tolist() == expected
    with pytest.raises(FgpError, match="no image"):
        discrimination.spread([], 3)


def test_channels_that_matter_come_first():
    """Only channels 1 and 4 of the first layer, and 0 of the second, are ever positive."""
    model, dataset = three_layers(), classification()
    for norm, alive in ((model[1], [1, 4]), (model[4], [0])):
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, -1.0)
        norm.weight.data[alive], norm.bias.data[alive] = 1.0, 0.5
    before = copy.deepcopy(model)
    hook = training(turns=None)
    fit(model, dataset.train, dataset, NO_TRAINING, 0, "cpu", hook=hook)
    scores = hook.scores()
    assert scores["0"].argsort(descending=True)[:2].sort().values.tolist() == [1, 4]
    assert scores["3"].argmax() == 0
    for name, channels in (("0", 6), ("3", 5), ("6", 4)):
        assert scores[name].dtype == torch.float32
        assert scores[name].sort().values.tolist() == list(range(1, channels + 1))
    assert weights_equal(model, before)  # batch statistics too
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_stages_are_the_literal_loop():
    """Two stages: the first four of the eight steps add the cross-entropy of the head in front of the third layer."""
    dataset = classification(count=32)
    recipe = Recipe(epochs=4, batch_size=16, lr=0.05, momentum=0.9)
    model, literal, hook = three_layers(), three_layers(), training(losses=1)
    fit(model, dataset.train, dataset, recipe, 5, "cpu", hook=hook)
    assert hook.positions == ["6"]
    assert hook.stage_of == {"0": 0, "3": 1, "6": 1}
    torch.manual_seed(5)
    head = Head(5, 4)
    literal.train()
    optimiser = torch.optim.SGD([*literal.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(10)
    for epoch in range(4):
        permutation = torch.randperm(32, generator=order).tolist()
        for start in (0, 16):
            index = permutation[start : start + 16]
            images, labels = (dataset.train.images[index].float() / 255 - 0.5) / 0.25, dataset.train.labels[index].long()
            inner = literal[:6](images)
            loss = F.cross_entropy(literal[6:](inner), labels)
            if epoch < 2:
                loss = loss + F.cross_entropy(head(inner), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for got, expected in zip(model.state_dict().values(), literal.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_adapt_leaves_the_rest_at_zero():
    model, dataset = three_layers(), classification()
    hook = training(turns="6", adapt="0.05")
    fit(model, dataset.train, dataset, NO_TRAINING, 0, "cpu", hook=hook)
    scores = hook.scores()
    admitted = {name: values.nonzero().flatten().tolist() for name, values in scores.items()}
    assert sum(map(len, admitted.values())) < 15
    assert cumulative(Structure(model, torch.zeros(1, 3, 8, 8)).gather(scores), 1.0) == admitted
    assert all(values.max() == len(values) for values in scores.values())


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_an_interrupted_run_ends_the_same(epochs, tmp_path):
    dataset = classification()

    def run(interrupt=None):
        model, hook = three_layers(), training(losses=2)
        if interrupt:
            original = hook.after_epoch

            def after_epoch(epoch):
                original(epoch)
                if epoch == interrupt + 1:
                    raise KeyboardInterrupt

            hook.after_epoch = after_epoch
        fit(model, dataset.train, dataset, RECIPE, 3, "cpu", hook=hook, checkpoint=Checkpoint(tmp_path / "m", "key", seconds=0))
        return model, hook.scores()

    with pytest.raises(KeyboardInterrupt):
        run(interrupt=epochs)
    model, scores = run()
    (tmp_path / "m.checkpoint").unlink()
    (tmp_path / "m.checkpoint.previous").unlink()
    straight, expected = run()
    assert weights_equal(model, straight)
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("network", "width", "dataset"), [("vgg16", 1 / 8, images32()), ("resnet50", 1 / 16, classification())])
def test_any_budget_is_met(network, width, dataset):
    torch.manual_seed(0)
    model = build(network, 4, width)
    hook = training(turns=1, images=4, iterations=0)
    before = torch.get_rng_state()
    fit(model, dataset.train, dataset, Recipe(epochs=1, batch_size=20, lr=0.01), 0, "cpu", hook=hook)
    assert torch.equal(torch.get_rng_state(), before)
    scores, example = hook.scores(), dataset.train.images[:1].float()
    assert list(scores) == [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    structure = Structure(model, example)
    assert {len(values.unique()) for name, values in scores.items() if name not in structure.gather(scores)} <= {1}
    for budget in (0.3, 0.7) if network == "vgg16" else (0.5,):
        plan = match_macs(scores, model, example, budget, "count")
        assert structure.macs(plan) == pytest.approx(budget * structure.macs(), rel=0.01)


def test_residual_channels_are_ordered_on_request():
    dataset = classification()
    for flag, expected in (("0", [1.0] * 6), ("1", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])):
        hook = training(residual=flag, turns=6)
        fit(residual().float(), dataset.train, dataset, NO_TRAINING, 0, "cpu", hook=hook)
        scores = hook.scores()
        assert torch.equal(scores["stem"], scores["conv2"])  # summed, the ranks 1 to 6
        assert scores["stem"].sort().values.tolist() == expected
        assert scores["conv1"].sort().values.tolist() == [1, 2, 3, 4, 5]


def test_selection_runs_on_frozen_statistics(monkeypatch):
    dataset, seen = classification(), []

    class Watched(Objective):
        def __init__(self, network, dense, layers, position, head, *rest):
            super().__init__(network, dense, layers, position, head, *rest)
            seen.append([(part, copy.deepcopy(dict(part.named_buffers()))) for part in (network, dense, head)])

    monkeypatch.setattr(discrimination, "Objective", Watched)
    fit(three_layers(), dataset.train, dataset, RECIPE, 0, "cpu", hook=training(losses=1))
    assert len(seen) == 3
    for part, buffers in (entry for entries in seen for entry in entries):
        assert not any(module.training for module in part.modules() if list(module.buffers()))
        for name, values in part.named_buffers():
            assert torch.equal(values, buffers[name]), name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("losses", "-1"), ("images", 0), ("turns", "0"), ("iterations", 1.5), ("lr", "fast"), ("balance", -1), ("adapt", "nan"),
        ("residual", 2),
    ],
)  # fmt: skip
def test_options_are_checked(option, value):
    with pytest.raises(FgpError, match=f"^option {option}: "):
        training(**{option: value})


def test_options_are_read():
    given = {"losses": "3", "images": "64", "turns": "2", "iterations": "5", "lr": "0.1", "balance": "2", "adapt": "0.001"}
    hook = baselines.get("dcp").training(**given, residual="1")
    assert hook.settings == Settings(3, 64, 2, 5, 0.1, 2.0, 0.001, True)
    assert baselines.get("dcp").training().settings == Settings()


def test_segmentation_is_refused():
    dataset = segmentation()
    with pytest.raises(FgpError, match="the task is segmentation"):
        fit(nn.Conv2d(3, 4, 1), dataset.train, dataset, NO_TRAINING, 0, "cpu", hook=Discrimination(Settings()))
