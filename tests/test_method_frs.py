import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from scoring_networks import classification, residual
from torch import nn

from baselines import frs, frs_oneshot
from fgp import FgpError
from fgp.data import Dataset, Split
from fgp.models import build
from fgp.scoring import relevance
from fgp.scoring.relevance import channel_relevances
from fgp.surgery import Structure
from fgp.train import Recipe, fit
from fgp.train.resume import Checkpoint


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
        model.head.bias -= model(images).mean(0)
        predicted = model(images).argmax(1)
    some = predicted.where(torch.arange(12) % 3 > 0, (predicted + 1) % 4)
    labels = {"some": some, "one class": torch.full((12,), 3), "none": (predicted + 1) % 4}[recognised]
    right = {label: (predicted[labels == label] == label).double().mean().item() for label in labels.unique().tolist()}
    assert set(right.values()) == {"some": {0, 0.5, 1}, "one class": {7 / 12}, "none": {0}}[recognised]
    batches = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    expected = definition(model, batches)
    for data in (batches, [(images, labels)]):
        for name, values in frs_oneshot.score(model, data, 0).items():
            torch.testing.assert_close(values.double(), expected[name], rtol=1e-5, atol=1e-7)
    first = frs_oneshot.score(model, batches, 0, images="7")
    for name, values in definition(model, [(images[:7], labels[:7])]).items():
        torch.testing.assert_close(first[name].double(), values, rtol=1e-5, atol=1e-7)


def watch_relevances(monkeypatch, logits, relevances):
    """Let every image have the given logits and relevances of the layer "read"; return the shapes asked for."""
    asked = []

    def given(model, images, labels):
        asked.append((len(images), len(labels)))
        return logits[: len(images)], {"read": relevances[: len(images)]}

    monkeypatch.setattr(relevance, "channel_relevances", given)
    return asked


def test_score_by_hand(monkeypatch):
    """Of the classes 0, 1 and 2 a half, all and none are recognised; class 3 has no image; sums as small as the 1e-9."""
    sigmoid = {x: 1 / (1 + math.exp(-x)) for x in (1, 2)}
    logits = torch.eye(4)[[0, 1, 1, 0]]
    relevances = torch.tensor([[6.0, 0], [0, 0], [0, 9], [-3, 0]]).double() * 1e-9
    watch_relevances(monkeypatch, logits, relevances)
    model = nn.ModuleDict({"read": nn.Conv2d(3, 2, 1), "idle": nn.Conv2d(3, 5, 1)})
    for dtype in (torch.int64, torch.int32):
        scores = frs_oneshot.score(model, [(torch.zeros(4, 3, 1, 1), torch.tensor([0, 0, 1, 2], dtype=dtype))], 0)
        first, second = abs(sigmoid[2] * 3 - 3) / 3, sigmoid[1] * 9 / 3
        norm = (first**2 + second**2) ** 0.5
        assert scores["read"].tolist() == pytest.approx([first / (norm + 1), second / (norm + 1)])
        assert scores["idle"].tolist() == [0] * 5


@pytest.mark.parametrize(("images", "expected"), [(5, [5]), (6, [5, 1]), (7, [5, 2]), (12, [5, 4, 3]), (None, [5, 4, 3])])
def test_as_many_images_are_read_as_the_option_says(images, expected, monkeypatch):
    asked = watch_relevances(monkeypatch, torch.ones(5, 2), torch.ones(5, 2).double())
    batches = [(torch.zeros(count, 3, 1, 1), torch.zeros(count).long()) for count in (5, 4, 3)]
    frs_oneshot.score(nn.ModuleDict({"read": nn.Conv2d(3, 2, 1)}), batches, 0, images=images)
    assert asked == [(count, count) for count in expected]


def test_score_refuses():
    images, labels = classification()
    with pytest.raises(FgpError, match=r"^batches: holds no image"):
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
    return fit(model, data.train, data, recipe, 3, "cpu", hook=hook, checkpoint=checkpoint)


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


def test_channels_go_at_the_events_only_by_what_the_options_score(monkeypatch):
    calls, left = [], []

    def score(model, batches, seed, *, images):
        calls.append((seed, images, model.training, model.norm_a.training))
        return RISING

    monkeypatch.setattr(frs_oneshot, "score", score)
    hook = frs.pruning(0.5, interval=1 / 3, images="5")
    after_epoch = hook.after_epoch

    def watched(epoch):
        after_epoch(epoch)
        left.append((len(calls), sum(map(len, hook.plan.values()))))

    hook.after_epoch = watched
    train(Steps(), hook, epochs=7)
    assert hook.events == [2, 4]
    assert calls == [(3, 5, False, False)] * 2
    assert [count for count, _ in left] == [0, 1, 1, 2, 2, 2, 2]
    channels = [count for _, count in left]
    assert 40 == channels[0] > channels[1] == channels[2] > channels[3] == channels[6]


def test_the_ranking_and_what_it_costs_by_hand():
    """Layers "2" and "3" and, of two channels a unit, "0" with the grouped "1"; 12 + 8 + 12 + 6 + 4 MACs."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 2)
    )
    structure = Structure(model, torch.zeros(1, 3, 1, 1))
    scores = {"0": [0.0, 0, 1, 1], "1": [0.0, 0, 5, 5], "2": [2.0, 9, 2], "3": [1.0, 2]}
    scores = {name: torch.tensor(values) for name, values in scores.items()}
    dense = {"0": [0, 1, 2, 3], "2": [0, 1, 2], "3": [0, 1]}
    # A tie goes to the later layer, then to the higher number.
    ranking = frs._ranking(structure, dense, scores)
    assert ranking == [("0", 0), ("3", 0), ("2", 2), ("2", 0)]
    assert frs._ranking(structure, {"0": [2, 3], "2": [1, 2], "3": [0, 1]}, scores) == [("3", 0), ("2", 2)]
    costs = [42, 42 - 6 - 4 - 6, 26 - 3 - 2, 21 - 2 - 1, 18 - 2 - 1]
    for target in range(15, 43):
        assert frs._needed(structure, dense, ranking, target) == next(n for n, cost in enumerate(costs) if cost <= target)


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
