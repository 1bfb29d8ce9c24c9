"""The benchmark of pruned networks, on tiny ones."""

import csv

import pytest
import torch
from torch import nn

from benchmarks import pruned
from benchmarks.__main__ import main
from fgp import cost
from fgp.models import build
from fgp.surgery import Structure

WORDS = ["--width", "0.125", "--budgets", "0.5", "--batch-sizes", "1", "2", "--seconds", "0.01", "--threads", "1"]
SELECTIONS = ["dense", "macs-0.5000", "macs-0.5000-x4", "macs-0.5000-x8", "macs-0.5000-x16"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Rows of the CSV of a run on a tiny VGG-16."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "pruned.csv"
    assert main(["pruned", "--networks", "vgg16", "--device", "cpu", *WORDS, "--out", str(out)]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def test_every_alternative_in_both_formats_at_every_batch_size(result):
    found = [(row["batch_size"], row["memory_format"], row["selection"]) for row in result]
    assert found == [(batch, name, way) for batch in "12" for name in ("contiguous", "channels_last") for way in SELECTIONS]
    assert {(row["network"], row["width"], row["precision"], row["threads"]) for row in result} == {
        ("vgg16", "0.125", "fp32", "1")
    }
    assert all(row["cpu"] and row["torch"] and row["date"] for row in result)


def test_ratios_are_to_the_dense_network_beside_it(result):
    dense = {(row["batch_size"], row["memory_format"]): row for row in result if row["selection"] == "dense"}
    for row in result:
        beside = dense[row["batch_size"], row["memory_format"]]
        assert float(row["latency_ratio"]) == pytest.approx(float(row["latency_ms"]) / float(beside["latency_ms"]), rel=2e-3)
        assert float(row["macs_ratio"]) == pytest.approx(int(row["macs"]) / int(beside["macs"]), abs=1e-4)
        assert float(row["q1_ms"]) <= float(row["latency_ms"]) <= float(row["q3_ms"])
    assert {row["latency_ratio"] for row in dense.values()} == {"1.0000"}


def test_counts_are_those_of_the_networks(result):
    dense = build("vgg16", pruned.CLASSES, 0.125)
    structure = Structure(dense, cost.example(pruned.INPUT))
    assert float(result[0]["multiples_of_8"]) == 1
    for row, plan in zip(result, pruned.plans(structure, [0.5]).values(), strict=False):
        network = structure.prune(plan)
        counted = cost.count(network, cost.example(pruned.INPUT))
        assert (int(row["macs"]), int(row["params"])) == (counted.macs, counted.params)
        widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert float(row["multiples_of_8"]) == pytest.approx(sum(width % 8 == 0 for width in widths) / len(widths), abs=0.01)
    share = {row["selection"]: float(row["multiples_of_8"]) for row in result}
    assert share["macs-0.5000"] < share["macs-0.5000-x4"] < share["macs-0.5000-x8"] == share["macs-0.5000-x16"] == 1


@pytest.mark.parametrize("memory_format", pruned.FORMATS.values(), ids=pruned.FORMATS)
def test_a_served_network_answers_alike_in_every_format_and_precision(memory_format):
    torch.manual_seed(0)
    network, images = build("vgg16", 10, 0.125).eval(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(pruned.Served(network, memory_format, None)(images), expected, rtol=1e-4, atol=1e-5)
        half = pruned.Served(network, memory_format, torch.bfloat16)(images)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.05 * expected.abs().max().item())
    weights = [module.weight for module in pruned.Served(network, memory_format, None).modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=memory_format) for weight in weights)
    assert all(module.weight.is_contiguous() for module in network.modules() if isinstance(module, nn.Conv2d))


def test_every_multiple_at_every_budget():
    structure = Structure(build("resnet50", 10, 0.25), cost.example(pruned.INPUT))
    assert list(pruned.plans(structure, [0.7, 0.9]))[::4] == ["dense", "macs-0.7000-x16", "macs-0.9000-x16"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budgets", "1.5"], "--budgets: 1.5 is out of range"),
        (["--budgets", "0.001"], "cannot be reached"),
        (["--device", "nowhere"], "--device nowhere"),
    ],
)
def test_wrong_arguments(words, message, tmp_path, capsys):
    out = tmp_path / "pruned.csv"
    assert main(["pruned", "--networks", "vgg16", "--device", "cpu", *WORDS, *words, "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
