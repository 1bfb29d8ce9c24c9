import copy
import csv
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fgp import data, models
from fgp.data import Dataset, Split
from fgp.errors import FgpError
from fgp.evaluate import evaluate
from fgp.train import Recipe, fit
from fgp.train.hooks import Penalty
from fgp.train.loop import batches_of

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def classification(count=40, classes=4, seed=0, side=8):
    """Images whose brightest rows tell the class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count, dtype=torch.uint8) % classes
    rows = side // 4
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, rows * label : rows * (label + 1)] += 120
    split = Split(images, labels)
    return Dataset(split, split, tuple("abcd"[:classes]), classes, MEAN, STD, "classification", 255, "test")


def segmentation(count=6, classes=3, outputs=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 10), dtype=torch.uint8, generator=generator)
    labels = (images[:, 0].long() * classes // 256).byte()
    labels[:, :, 0] = 255
    split = Split(images, labels)
    return Dataset(split, split, tuple("abc"), outputs, MEAN, STD, "segmentation", 255, "test")


def small_cnn(outputs=4, seed=0):
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, outputs))
    return nn.Sequential(*layers)


class Aux(nn.Module):
    """A segmentation network with an auxiliary head in training mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.main, self.aux = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return (self.main(x), self.aux(x)) if self.training else self.main(x)


class Recorder(nn.Module):
    """Remembers the batches it was given."""

    def __init__(self, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, hidden, 1), nn.Flatten(), nn.Linear(64 * hidden, 4))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.net(x)


def weights_equal(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


RECIPE = Recipe(epochs=4, batch_size=16, lr=0.05, momentum=0.9, weight_decay=1e-3, schedule="cosine")


def test_the_loss_falls_and_the_curve_says_so(tmp_path, capsys):
    dataset = classification()
    model = small_cnn()
    history = fit(model, dataset.train, dataset, RECIPE, 0, "cpu", curve=tmp_path / "curve.csv", label="toy")
    assert history.losses[-1] < history.losses[0] / 2
    assert history.scores[-1] > 90
    assert evaluate(model, dataset.test, dataset, "cpu", 16) > 90
    assert not model.training
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == ["epoch", "lr", "train_loss", "train_percent", "seconds"]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx(history.losses, rel=1e-4)
    assert [float(row["lr"]) for row in rows] == pytest.approx([RECIPE.rate(3 * epoch, 3) for epoch in range(4)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("toy epoch 1/4 loss ")
    assert " train top-1 " in lines[0]
    assert " % lr 0.05 " in lines[0]


def test_one_run_is_the_literal_loop():
    """The same steps written out: torch's SGD, mean cross-entropy, batches in the recorded order."""
    dataset = classification(count=39)
    recipe = Recipe(epochs=3, batch_size=16, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True, schedule="poly")
    model, literal = small_cnn(), small_cnn()
    history = fit(model, dataset.train, dataset, recipe, 5, "cpu")
    optimiser = torch.optim.SGD(literal.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)
    order, losses = torch.Generator().manual_seed(10), []
    for epoch in range(3):
        permutation, total = torch.randperm(39, generator=order).tolist(), 0.0
        for step, start in enumerate((0, 16, 32)):
            index = permutation[start : start + 16]
            images = (dataset.train.images[index].float() / 255 - 0.5) / 0.25
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - (3 * epoch + step) / 9) ** 0.9
            optimiser.zero_grad()
            loss = F.cross_entropy(literal(images), dataset.train.labels[index].long())
            loss.backward()
            optimiser.step()
            total += loss.item() * len(index)
        losses.append(total / 39)
    assert history.losses == pytest.approx(losses, rel=1e-4)
    for got, expected in zip(model.state_dict().values(), literal.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    dataset = classification()
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, crop_padding=1, flip=True)
    runs = []
    for number, seed in enumerate((3, 3, 4)):
        model = nn.Sequential(nn.Dropout(0.2), small_cnn())
        torch.manual_seed(number)
        fit(model, dataset.train, dataset, recipe, seed, "cpu")
        runs.append(model)
    assert weights_equal(runs[0], runs[1])
    assert not weights_equal(runs[0], runs[2])


def test_the_global_generator_is_left_alone():
    dataset = classification()
    model = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(192, 4))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit(model, dataset.train, dataset, RECIPE, 0, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_order_of_the_data_depends_on_the_seed_not_on_the_network():
    dataset = classification()
    recipe = Recipe(epochs=2, batch_size=16, lr=0.01, crop_padding=2, flip=True)
    narrow, wide, other = Recorder(1), Recorder(7), Recorder(1)
    for model, seed in ((narrow, 0), (wide, 0), (other, 1)):
        fit(model, dataset.train, dataset, recipe, seed, "cpu")
    assert [len(x) for x in narrow.seen] == [16, 16, 8] * 2
    assert all(torch.equal(a, b) for a, b in zip(narrow.seen, wide.seen, strict=True))
    assert not torch.equal(narrow.seen[0], other.seen[0])
    assert not torch.equal(narrow.seen[0], narrow.seen[3])


def test_every_image_is_used_once_an_epoch():
    dataset = classification(count=33)
    model = Recorder(1)
    fit(model, dataset.train, dataset, Recipe(epochs=1, batch_size=16, lr=0.01), 0, "cpu")
    assert [len(x) for x in model.seen] == [16, 17]
    used = torch.cat(model.seen).mul(0.25).add(0.5).mul(255).round().byte().flatten(1)
    assert sorted(used.tolist()) == sorted(dataset.train.images.flatten(1).tolist())


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(50000, 128, [128] * 390 + [80]), (33, 16, [16, 17]), (32, 16, [16, 16]), (3, 1, [1, 1, 1]), (1, 8, [1]), (9, 8, [9])],
)
def test_batches_of(images, batch_size, sizes):
    parts = batches_of(images, batch_size)
    assert [part.stop - part.start for part in parts] == sizes
    assert [n for part in parts for n in range(images)[part]] == list(range(images))


def test_divergence_stops_with_advice_and_leaves_no_file(tmp_path):
    dataset = classification()
    recipe = Recipe(epochs=6, batch_size=16, lr=1e30)
    with pytest.raises(FgpError, match=r"toy: .*epoch 1 at learning rate 1e\+30; lower lr"):
        fit(small_cnn(), dataset.train, dataset, recipe, 0, "cpu", curve=tmp_path / "curve.csv", label="toy")
    assert not list(tmp_path.iterdir())


def test_divergence_in_the_last_step_is_noticed():
    dataset = classification()
    recipe = Recipe(epochs=1, batch_size=40, lr=1e30)
    with pytest.raises(FgpError, match=r"1\.weight is not finite in epoch 1"):
        fit(small_cnn(), dataset.train, dataset, recipe, 0, "cpu", hook=Penalty(lambda m: 1e30 * m[1].weight.sum()))


def test_a_penalty_is_added_to_the_loss():
    dataset = classification()
    recipe = Recipe(epochs=1, batch_size=40, lr=0.1, momentum=0)
    plain, penalised = small_cnn(), small_cnn()
    first = fit(plain, dataset.train, dataset, recipe, 0, "cpu")
    second = fit(penalised, dataset.train, dataset, recipe, 0, "cpu", hook=Penalty(lambda m: 0.5 * m[1].weight.abs().sum()))
    assert second.losses[0] == pytest.approx(first.losses[0] + 0.5 * 8, rel=1e-5)
    assert torch.allclose(plain[1].weight - penalised[1].weight, torch.full((8,), 0.1 * 0.5), atol=1e-6)


def test_the_auxiliary_head_is_trained_with_its_weight():
    dataset = segmentation()
    model, literal = Aux(), Aux().train()
    recipe = Recipe(epochs=1, batch_size=6, lr=0.1, momentum=0, aux_weight=0.3)
    history = fit(model, dataset.train, dataset, recipe, 0, "cpu")
    images, labels = next(iter(data.batches(dataset.train, dataset, 6)))
    main, aux = literal(images)
    loss = F.cross_entropy(main, labels, ignore_index=255) + 0.3 * F.cross_entropy(aux, labels, ignore_index=255)
    loss.backward()
    assert history.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(model.aux.weight, literal.aux.weight - 0.1 * literal.aux.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.main.weight, literal.main.weight - 0.1 * literal.main.weight.grad, rtol=1e-4, atol=1e-6)
    shown = labels != 255
    assert history.scores[0] == pytest.approx(100 * float((main.argmax(1) == labels)[shown].float().mean()), abs=0.3)


def test_segmentation_learns_with_every_augmentation():
    dataset = segmentation(count=12)
    recipe = Recipe(
        epochs=8, batch_size=4, lr=0.1, flip=True, scale_range=(0.75, 1.5), crop_size=(8, 8), class_weights="median_frequency"
    )
    model = Aux()
    before = evaluate(model, dataset.test, dataset, "cpu", 4)
    history = fit(model, dataset.train, dataset, recipe, 0, "cpu")
    assert history.losses[-1] < history.losses[0]
    assert evaluate(model, dataset.test, dataset, "cpu", 4) > before + 10


def test_a_recipe_of_the_other_task_is_refused():
    dataset = classification()
    with pytest.raises(FgpError, match="crop_size"):
        fit(small_cnn(), dataset.train, dataset, Recipe(epochs=1, lr=0.1, crop_size=(4, 4)), 0, "cpu")


def test_no_epochs_change_nothing():
    dataset = classification()
    model, same = small_cnn(), small_cnn()
    history = fit(model, dataset.train, dataset, Recipe(epochs=0, lr=0.1), 0, "cpu")
    assert weights_equal(model, same)
    assert history.seconds == 0


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "segnet", "deeplabv3"])
def test_every_network_trains_reproducibly(name):
    torch.manual_seed(0)
    model = models.build(name, 4, 1 / 16)
    dense = model.fgp_spec.task == "segmentation"
    images = torch.randint(0, 256, (5, 3, 32, 40) if dense else (5, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 4, (5, 32, 40) if dense else (5,), dtype=torch.uint8)
    split = Split(images, labels)
    dataset = Dataset(split, split, tuple("abcd"), 4, MEAN, STD, model.fgp_spec.task, 255, "test")
    recipe = Recipe(epochs=2, batch_size=2, lr=0.01, flip=True, scale_range=(0.5, 2.0) if dense else None)
    runs = [copy.deepcopy(model) for _ in range(2)]
    for run in runs:
        fit(run, dataset.train, dataset, recipe, 0, "cpu")
        assert not weights_equal(run, model)
        assert all(tensor.is_contiguous() for tensor in run.state_dict().values())
    assert weights_equal(*runs)


def test_a_terminal_gets_a_bar_instead_of_lines(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    dataset = classification()
    fit(small_cnn(), dataset.train, dataset, RECIPE, 0, "cpu", label="toy")
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "epoch 4/4 loss" in shown
    assert "toy epoch" not in shown


@pytest.mark.slow
def test_a_small_vgg16_learns_the_digits(tmp_path):
    data.prepare("digits", tmp_path / "digits.safetensors")
    dataset = data.load(tmp_path / "digits.safetensors")
    torch.manual_seed(0)
    model = models.build("vgg16", dataset.outputs, 0.25)
    recipe = Recipe(epochs=8, batch_size=64, lr=0.05, weight_decay=5e-4, schedule="cosine", crop_padding=2)
    fit(model, dataset.train, dataset, recipe, 0, "cpu")
    assert evaluate(model, dataset.test, dataset, "cpu", 64) > 97
