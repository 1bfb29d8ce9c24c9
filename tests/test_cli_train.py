import csv
import json

import pytest
import torch
from torch import nn

import fgp
from fgp import data, models, tensorfiles
from fgp.cli import main
from fgp.evaluate import evaluate
from fgp.files import read_sealed
from fgp.metrics import read_metrics

WIDTH = 1 / 16
RECIPE = ["--epochs", "2", "--batch-size", "32", "--lr", "0.02", "--crop-padding", "1"]


def run(*words):
    return main([str(word) for word in (*words, "--device", "cpu", "--threads", "1")])


def test_train_writes_weights_curve_and_metrics(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("FGP_KEY", "abc")
    out, curve, metrics = (tmp_path / "deep" / name for name in ("model.safetensors", "curve.csv", "metrics.json"))
    outputs = ("--out", out, "--curve", curve, "--metrics", metrics)
    tags = ("--tag", "task=toy", "--tag", "method=dense", "--tag", "budget=full")
    assert run("train", "--data", digits, "--network", "vgg16", "--width", WIDTH, "--seed", 3, *outputs, *tags, *RECIPE) == 0
    values = read_metrics(metrics)
    dataset, model = data.load(digits), fgp.load(out)
    assert values["after"] == pytest.approx(evaluate(model, dataset.test, dataset, "cpu", 32))
    assert (values["task"], values["dataset"], values["method"], values["selection"]) == ("toy", "digits", "dense", "unpruned")
    assert (values["network"], values["width"], values["seed"], values["metric"]) == ("vgg16", WIDTH, 3, "top1")
    assert values["before"] is None
    assert values["macs"] == values["dense_macs"] > 0
    assert values["kept"] == values["channels"]
    assert values["budget"] == "full"
    assert values["provenance"]["key"] == "abc"
    assert values["provenance"]["recipe"]["crop_padding"] == 1
    assert values["provenance"]["threads"] == 1
    assert values["provenance"]["digest"] == tensorfiles.digest(tensorfiles.read(out)[0])
    assert len(list(csv.reader(curve.open()))) == 3
    assert fgp.checkpoint.read_metadata(out)["provenance"]["command"].startswith("fgp train --")


def test_finetune_measures_before_and_after(digits, pruned, tmp_path):
    out, metrics = tmp_path / "model.safetensors", tmp_path / "metrics.json"
    assert run("finetune", "--data", digits, "--weights", pruned, "--seed", 0, "--out", out, "--metrics", metrics, *RECIPE) == 0
    values, dataset, before, after = read_metrics(metrics), data.load(digits), fgp.load(pruned), fgp.load(out)
    assert values["before"] == pytest.approx(evaluate(before, dataset.test, dataset, "cpu", 32))
    assert values["before"] != pytest.approx(evaluate(before, dataset.train, dataset, "cpu", 32))
    assert values["after"] == pytest.approx(evaluate(after, dataset.test, dataset, "cpu", 32))
    first = next(iter(values["kept"]))
    assert (values["kept"][first], values["channels"][first]) == (2, 4)
    assert values["macs"] < values["dense_macs"]
    assert values["params"] == sum(parameter.numel() for parameter in after.parameters()) < values["dense_params"]
    assert after.fgp_plan == before.fgp_plan == {first: [0, 1]}
    assert values["score_seconds"] is None


def test_finetune_copies_the_time_of_scoring(digits, pruned, tmp_path):
    scored, metrics = tmp_path / "scored.safetensors", tmp_path / "metrics.json"
    fgp.save(fgp.load(pruned), scored, score_seconds=1.25)
    words = ("--weights", scored, "--seed", 0, "--out", tmp_path / "m", "--metrics", metrics)
    assert run("finetune", "--data", digits, *words, "--epochs", 0, "--lr", 0.1) == 0
    values = read_metrics(metrics)
    assert values["score_seconds"] == 1.25
    assert values["before"] == values["after"]


def test_the_same_command_gives_the_same_weights(digits, pruned, tmp_path):
    for name in ("a", "b"):
        run("finetune", "--data", digits, "--weights", pruned, "--seed", 0, "--out", tmp_path / name, *RECIPE)
    first, second = (fgp.load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_scratch_trains_the_architecture_from_new_weights(digits, pruned, tmp_path):
    metrics, out = tmp_path / "metrics.json", tmp_path / "model.safetensors"
    words = ("--seed", 0, "--out", out, "--metrics", metrics, *RECIPE[2:])
    assert run("train", "--data", digits, "--architecture", pruned, "--epochs", 0, *words) == 0
    old, new = fgp.load(pruned), fgp.load(out)
    assert {key: value.shape for key, value in old.state_dict().items()} == {k: v.shape for k, v in new.state_dict().items()}
    assert not any(torch.equal(a.weight, b.weight) for a, b in zip(*(convolutions(m) for m in (old, new)), strict=True))
    assert all((module.running_mean == 0).all() for module in new.modules() if isinstance(module, nn.BatchNorm2d))
    assert read_metrics(metrics)["before"] is None
    assert new.fgp_plan == old.fgp_plan


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("epochs", [1, 40])
def test_scratch_for_equal_flops_takes_more_epochs(digits, pruned, tmp_path, monkeypatch, epochs):
    seen = []

    def fit(model, split, dataset, recipe, *args, **kwargs):
        seen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr("fgp.train.loop.fit", fit)
    words = ("--architecture", pruned, "--epochs-scale", "flops", "--seed", 0, "--out", tmp_path / "m", "--lr", 0.1)
    assert run("train", "--data", digits, *words, "--epochs", epochs) == 130
    cost = fgp.cost.count(fgp.load(pruned), torch.empty(1, 3, 32, 32))
    dense = fgp.cost.count(models.build("vgg16", 10, WIDTH), torch.empty(1, 3, 32, 32))
    assert seen[0].epochs == round(epochs * min(2, dense.macs / cost.macs))
    assert not list(tmp_path.iterdir())


def test_evaluate_prints_and_writes(digits, pruned, tmp_path, capsys):
    out = tmp_path / "eval.json"
    assert run("evaluate", "--data", digits, "--weights", pruned, "--out", out) == 0
    values = read_sealed(out)
    assert json.loads(capsys.readouterr().out) == values
    assert list(values) == ["metric", "value", "macs", "params", "provenance"]
    dataset = data.load(digits)
    assert values["value"] == pytest.approx(evaluate(fgp.load(pruned), dataset.test, dataset, "cpu", 7))


NETWORK = ("--network", "vgg16", "--width", WIDTH)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*NETWORK, "--lr", "1e30"), "lower lr"),
        ((*NETWORK, "--lr", "-1"), "--lr"),
        ((*NETWORK, "--lr", "0.1", "--crop-size", "8", "8"), "crop_size is for segmentation"),
        ((*NETWORK, "--lr", "0.1", "--tag", "macs=3"), "--tag macs"),
        ((*NETWORK, "--lr", "0.1", "--tag", "macs"), "--tag macs: expected KEY=VALUE"),
        ((*NETWORK, "--lr", "0.1", "--epochs-scale", "flops"), "--architecture"),
        (("--network", "segnet", "--width", WIDTH, "--lr", "0.1"), "segmentation"),
        (("--architecture", "missing.safetensors", "--lr", "0.1"), "missing.safetensors"),
        (("--architecture", "missing.safetensors", "--width", "1", "--lr", "0.1"), "--width"),
    ],
)
def test_a_failure_names_its_cause_and_leaves_nothing(digits, tmp_path, capsys, words, message):
    outputs = ("--out", tmp_path / "m", "--curve", tmp_path / "c", "--metrics", tmp_path / "j")
    assert run("train", "--data", digits, "--seed", 0, "--epochs", 2, *outputs, *words) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_network_for_other_data_is_refused(digits, tmp_path, capsys):
    fgp.save(models.build("vgg16", 7, WIDTH), tmp_path / "seven.safetensors")
    for words in (("evaluate",), ("finetune", "--seed", 0, "--out", tmp_path / "m", *RECIPE)):
        assert run(*words, "--data", digits, "--weights", tmp_path / "seven.safetensors") == 1
        assert "seven.safetensors: 7 outputs, the data set needs 10" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
