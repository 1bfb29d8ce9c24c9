import csv

import pytest
import torch
from reference_fgp import assert_equal, literal_scores, randomise
from scoring_networks import Residual, classification, segmentation
from torch import nn

import fgp
from benchmarks import __main__ as command_line
from benchmarks import importance
from benchmarks import segmentation as by_classes
from fgp import FgpError, data
from fgp.layers import convolutions
from fgp.models.resnet import stage

TINY = ["--width", "0.0625", "--repeats", "1", "--threads", "1"]
SCORING = [name for name in importance.ALTERNATIVES if name not in ("forward", "backward", "ours")]


@pytest.fixture(scope="module")
def network():
    """Two bottlenecks of a ResNet in float64: a shortcut with a convolution and one without."""
    torch.manual_seed(0)
    blocks = stage(4, 3, (1, 1), stride=2)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)]
    return randomise(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), blocks, *head).double())


@pytest.fixture(scope="module")
def batches():
    images, labels = classification(count=5)
    return [(images[:3], labels[:3]), (images[3:], labels[3:])]


@pytest.mark.parametrize("name", SCORING)
def test_every_alternative_gives_our_numbers(name, network, batches):
    assert_equal(importance.ALTERNATIVES[name](network, batches), fgp.score(network, batches))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_our_numbers_are_those_of_the_reference(network, batches):
    assert_equal(importance.literal(network, batches), literal_scores(network, batches))


def test_backward_passes_every_convolution(network, batches):
    layers, passed = convolutions(network), []

    def watch(name, output):
        output.register_hook(lambda _: passed.append(name))

    start, *others = layers
    handles = [layers[name].register_forward_hook(lambda _, __, output, name=name: watch(name, output)) for name in others]
    importance.backward(network, batches[:1])
    for handle in handles:
        handle.remove()
    assert (start, sorted(passed)) == ("0", sorted(others))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_first_images_in_their_batches(batches):
    sizes = {count: [len(labels) for _, labels in importance.first(batches, count)] for count in (1, 3, 4, 9)}
    assert sizes == {1: [1], 3: [3], 4: [3, 1], 9: [3, 2]}


def test_other_numbers_are_refused(monkeypatch, network, batches):
    monkeypatch.setitem(importance.ALTERNATIVES, "literal", lambda *_: fgp.score(network, batches, form="gapfirst"))
    with pytest.raises(FgpError, match=r"literal: a score differs from fgp.score's by"):
        importance.measure(network, dict.fromkeys(("forward", "ours", "literal"), batches), 1)


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(FgpError, match=r"no-such: .* pip install -e"):
        importance._imported("no_such_module", "no-such")


def test_importance_on_the_command_line(tmp_path, capsys):
    words = ["--images", "12", "--batch-size", "6", "--train-images", "12", "--package-images", "3", "--literal-images", "1"]
    rows = _run(["importance", "--networks", "vgg16", "--data", "digits", *words], tmp_path)
    measured = {row["alternative"]: (row["images"], row["batch_size"]) for row in rows}
    packages = dict.fromkeys(SCORING, ("3", "3")) | dict.fromkeys(importance.LITERAL, ("1", "1"))
    assert measured == dict.fromkeys(("forward", "backward", "ours"), ("12", "6")) | packages
    forward = float(_of(rows, "forward")["seconds_per_image"])
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["seconds_per_image"]) / forward, rel=2e-3)
        assert float(row["peak_mb"]) > 0
        assert row["captum"]
        assert (row["difference"] != "") == (row["alternative"] in SCORING)
    assert {row["alternative"]: row["target"] for row in rows if row["target"]} == {"ours": "2.3", "literal": "40"}
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)


def test_fewer_alternatives(tmp_path):
    words = ["--images", "10", "--train-images", "10", "--data", "digits", "--alternatives", "backward"]
    rows = _run(["importance", "--networks", "vgg16", *words], tmp_path)
    assert [row["alternative"] for row in rows] == ["forward", "backward", "ours"]


def _run(words, folder):
    assert command_line.main([*words, *TINY, "--out", str(folder / "result.csv")]) == 0
    with open(folder / "result.csv", newline="") as file:
        return list(csv.DictReader(file))


def _of(rows, alternative):
    return next(row for row in rows if row["alternative"] == alternative)


LABELS = torch.tensor([[[0, 0], [1, 255]], [[3, 1], [3, 2]], [[2, 2], [2, 2]]], dtype=torch.uint8)


def test_classes_of_each_image_by_their_pixels():
    assert by_classes.present(LABELS) == [[0, 1], [3, 1, 2], [2]]


@pytest.mark.parametrize(("differing", "second"), [(False, [[3, 1], [3, 255]]), (True, [[3, 255], [3, 2]])])
def test_images_show_exactly_so_many_classes(differing, second):
    split = data.Split(torch.arange(3)[:, None, None, None].expand(3, 3, 2, 2).byte(), LABELS)
    found = by_classes.showing(split, 2, 2, differing=differing)
    assert found.images[:, 0, 0, 0].tolist() == [0, 1]
    assert found.labels.tolist() == [[[0, 0], [1, 255]], second]
    assert split.labels.equal(LABELS)


def test_too_few_images_with_so_many_classes():
    with pytest.raises(FgpError, match=r"--classes 3: 1 of 3 images show so many, 2 are needed"):
        by_classes.showing(data.Split(LABELS, LABELS), 2, 3)


def test_union_loop_gives_our_numbers_in_more_passes():
    torch.manual_seed(0)
    network = randomise(Residual(segmentation=True).double())
    images, labels = segmentation(count=3)
    labels[1] = torch.where(torch.arange(8) < 4, 3, 2)
    batches = [(images, labels)]
    ours, passes = by_classes.counted(network, lambda: fgp.score(network, batches))
    scores, of_union = by_classes.counted(network, lambda: by_classes.by_union(network, batches))
    assert_equal(scores, ours)
    assert (passes, of_union, by_classes.union(batches)) == (3, 4, 4)
    assert set(scores) == set(convolutions(network))


@pytest.mark.parametrize("network", ["segnet", "deeplabv3"])
def test_segmentation_on_the_command_line(network, tmp_path):
    words = ["--networks", network, "--data", "scenes", "--size", "32", "48", "--images", "3", "--batch-size", "3"]
    rows = _run(["segmentation", *words], tmp_path)
    alike = [row for row in rows if row["labels"] == "alike"]
    assert [(row["classes"], row["backward_passes"], row["target"]) for row in alike][:2] == [
        ("1", "1", "2.3"),
        ("2", "2", "3.6"),
    ]
    ours, loop = rows[-2:]
    assert (ours["alternative"], loop["alternative"]) == ("ours", "union loop")
    assert ours["union"] == loop["union"] == loop["backward_passes"]
    assert int(ours["backward_passes"]) == 2 < int(ours["union"])
    assert float(loop["difference"]) < 1e-3
    assert loop["times_ours"]
    assert _of(rows, "forward")["ratio"] == "1"
