"""Interrupted trainings of the command line: what a checkpoint is valid for, and what is not repeated."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_cli_train import WIDTH

import fgp
from fgp import data
from fgp.cli import main, training
from fgp.train import Recipe


@pytest.fixture(scope="module")
def key():
    """Return the key of the checkpoint that a command line uses."""

    def key(*words):
        seen = []

        def fit(*args, checkpoint, **options):
            seen.append(checkpoint.key)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fgp.train.loop.fit", fit)
            assert main([str(word) for word in (words[0], "--device", "cpu", "--threads", 1, *words[1:])]) == 130
        return seen[0]

    return key


TRAIN = {"--network": "vgg16", "--width": WIDTH, "--seed": 0, "--epochs": 2, "--lr": 0.1}
GRADUAL = {**TRAIN, "--method": "frs", "--selection": "macs-0.5", "--plan": "p"}
SLIMMING = {**TRAIN, "--method": "slimming"}


def words(subcommand, flags, data, out):
    return [
        subcommand,
        "--data",
        data,
        "--out",
        out,
        *(word for flag, value in flags.items() for word in (flag, value) if word != ""),
    ]


@pytest.mark.parametrize(
    ("subcommand", "flags", "change"),
    [
        ("train", TRAIN, {"--seed": 1}),
        ("train", TRAIN, {"--lr": 0.2}),
        ("train", TRAIN, {"--epochs": 3}),
        ("train", TRAIN, {"--width": 1 / 8}),
        ("train", TRAIN, {"--network": "resnet50"}),
        ("train", TRAIN, {"--flip": ""}),
        ("train", TRAIN, {"--compile": ""}),
        ("train", TRAIN, {"--precision": "bf16"}),
        ("train", TRAIN, {"--threads": 2}),
        ("stage", SLIMMING, {"--option": "strength=0.1"}),
        ("stage", GRADUAL, {"--selection": "macs-0.6"}),
        ("stage", GRADUAL, {"--tied": ""}),
    ],
)
def test_a_change_of_the_training_is_another_key(key, digits, tmp_path, subcommand, flags, change):
    threads = torch.get_num_threads()
    try:
        ours, other = (key(*words(subcommand, given, digits, tmp_path / "m")) for given in (flags, {**flags, **change}))
    finally:
        torch.set_num_threads(threads)
    assert ours != other


@pytest.mark.parametrize(
    "change",
    [
        {"--curve": "c", "--metrics": "j"},
        {"--tag": "task=toy"},
        {"--checkpoint-seconds": 3},
        {"--momentum": Recipe.model_fields["momentum"].default},
        {"--precision": "fp32", "--launch": "eager"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_has_no_part_in_the_training_keeps_the_key(key, digits, tmp_path, change):
    ours, same = (
        key(*words("train", given, digits, tmp_path / name)) for name, given in (("a", TRAIN), ("b", {**TRAIN, **change}))
    )
    assert ours == same


def copied(path, to, tensors=lambda tensors: tensors, **entries):
    """Write a safetensors file again with other tensors or other entries of the metadata."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["fgp"])
    save_file(tensors(load_file(path)), to, {"fgp": json.dumps(metadata | entries)})
    return to


def one_more(tensors):
    name = min(tensors)
    tensors[name].view(-1)[-1] += 1
    return tensors


def test_the_content_of_the_inputs_counts_not_their_age(key, digits, pruned, tmp_path):
    def of(data, weights):
        flags = {"--weights": weights, "--seed": 0, "--epochs": 2, "--lr": 0.1}
        return key(*words("finetune", flags, data, tmp_path / "m"))

    ours = of(digits, pruned)
    again = tmp_path / "again.safetensors"
    data.prepare("digits", again, train_limit=100, test_limit=60)
    assert of(again, pruned) == ours
    assert of(digits, copied(pruned, tmp_path / "a", provenance={"finished": "later"})) == ours
    assert of(digits, copied(pruned, tmp_path / "b", one_more)) != ours
    assert of(digits, copied(pruned, tmp_path / "c", plan={"features.0": [0, 2]})) != ours
    assert of(copied(digits, tmp_path / "d", one_more), pruned) != ours
    assert of(copied(digits, tmp_path / "e", mean=[0.5, 0.5, 0.5]), pruned) != ours


def test_the_code_of_the_training_counts(key, digits, tmp_path, monkeypatch):
    source = tmp_path / "source.py"
    source.write_text("a")
    monkeypatch.setattr(training, "sources", lambda *modules: [source])
    ours = key(*words("train", TRAIN, digits, tmp_path / "m"))
    assert key(*words("train", TRAIN, digits, tmp_path / "m")) == ours
    source.write_text("b")
    assert key(*words("train", TRAIN, digits, tmp_path / "m")) != ours


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        (["fgp.cli.train"], {"fgp/cli/training.py", "fgp/models/vgg.py", "fgp/data/dataset.py", "fgp/checkpoint.py"}),
        (["fgp.cli.stage", "baselines.slimming"], {"baselines/slimming.py", "fgp/train/hooks.py"}),
        (["fgp.cli.stage", "baselines.cap"], {"baselines/cap.py", "baselines/slimming.py"}),
        (["fgp.cli.stage", "baselines.aofp"], {"fgp/train/gradual.py", "fgp/scoring/ablation.py", "fgp/coupling.py"}),
    ],
)
def test_the_code_of_a_training_is_what_it_imports(modules, needed):
    root = Path(fgp.__file__).parents[1]
    files = {file.relative_to(root).as_posix() for file in training.sources(*modules)}
    assert files >= needed | {f"{modules[0].replace('.', '/')}.py"}
    assert not files & {"baselines/l1.py", "fgp/cli/score.py", "fgp/latency.py", "fgp/scoring/rank.py"}
    assert not [name for name in files if not name.startswith(("fgp/", "baselines/"))]


@pytest.mark.parametrize(("subcommand", "flags"), [("train", TRAIN), ("stage", SLIMMING), ("stage", GRADUAL)])
def test_a_training_is_not_repeated_when_a_later_one_of_its_process_failed(
    digits, tmp_path, monkeypatch, capsys, subcommand, flags
):
    def run(second):
        later = words("train", TRAIN, second, "b")
        return main([str(word) for word in (*words(subcommand, flags, digits, "a"), "--device", "cpu", "then", *later)])

    monkeypatch.chdir(tmp_path)
    assert run("missing.safetensors") == 1
    assert (tmp_path / "a.checkpoint").exists()
    first = load_file("a")
    (tmp_path / "a").unlink()  # as Snakemake does
    capsys.readouterr()
    assert run(digits) == 0
    assert "goes on after epoch 2\n" in capsys.readouterr().err
    again = load_file("a")
    assert first.keys() == again.keys()
    assert all(torch.equal(values, again[name]) for name, values in first.items())
    assert {path.name for path in tmp_path.iterdir()} - {"p"} == {"a", "b"}
