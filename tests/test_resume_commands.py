"""Interrupted trainings of the command line: what a checkpoint is valid for, and what is not repeated."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_cli_train import WIDTH
from test_codehash import clear

from fgp import codehash, data, tensorfiles
from fgp.cli import main
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


def copied(path, to, change=lambda tensors: tensors, **entries):
    """Write a file of fgp again with other tensors or other entries of the metadata."""
    tensors, about = tensorfiles.read(path)
    own = {name: value.clone() for name, value in tensors.items()}
    kept = {key: value for key, value in about.items() if key not in tensorfiles.RESERVED}
    tensorfiles.write(to, change(own), kept | entries)
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
    assert again.read_bytes() != digits.read_bytes()
    assert of(digits, copied(pruned, tmp_path / "a", provenance={"finished": "later"}, score_seconds=3.0)) == ours
    assert of(digits, copied(pruned, tmp_path / "b", one_more)) != ours
    assert of(copied(digits, tmp_path / "c", one_more), pruned) != ours
    assert of(copied(digits, tmp_path / "d", mean=[0.5, 0.5, 0.5]), pruned) != ours
    assert of(copied(digits, tmp_path / "e", std=[0.5, 0.5, 0.5]), pruned) != ours


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the source, whose code a checkpoint's key is of."""
    packages = {name: tmp_path / "source" / name for name in ("fgp", "baselines")}
    for name, folder in packages.items():
        shutil.copytree(codehash.PACKAGES[name], folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(codehash, "ROOT", tmp_path / "source")
    monkeypatch.setattr(codehash, "PACKAGES", packages)
    clear()
    yield tmp_path / "source"
    clear()


STATEMENT = "\nedited = True\n"
MEANS_THE_SAME = '\n# a comment\n"""A text that nothing uses."""\n'


@pytest.mark.parametrize(
    ("file", "text", "subcommands"),
    [
        ("fgp/train/loop.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/train/augment.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/cli/training.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/data/dataset.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/checkpoint.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/models/vgg.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/models/layers.py", STATEMENT, ["train", "slimming", "gradual"]),
        ("fgp/cli/train.py", STATEMENT, ["train"]),
        ("fgp/cli/stage.py", STATEMENT, ["slimming", "gradual"]),
        ("fgp/train/gradual.py", STATEMENT, ["gradual"]),
        ("fgp/coupling.py", STATEMENT, ["gradual"]),
        ("baselines/slimming.py", STATEMENT, ["slimming"]),
        ("baselines/frs.py", STATEMENT, ["gradual"]),
        ("fgp/models/resnet.py", STATEMENT, []),
        ("fgp/cli/score.py", STATEMENT, []),
        ("fgp/scoring/rank.py", STATEMENT, []),
        ("baselines/l1.py", STATEMENT, []),
        ("fgp/train/loop.py", MEANS_THE_SAME, []),
        ("fgp/models/vgg.py", MEANS_THE_SAME, []),
        ("baselines/slimming.py", MEANS_THE_SAME, []),
    ],
)
def test_the_code_of_the_training_counts(key, digits, tmp_path, sources, file, text, subcommands):
    def keys():
        clear()
        given = {"train": TRAIN, "slimming": SLIMMING, "gradual": GRADUAL}
        return {
            name: key(*words("train" if name == "train" else "stage", flags, digits, tmp_path / "m"))
            for name, flags in given.items()
        }

    before = keys()
    assert keys() == before
    with open(sources / file, "a") as source:
        source.write(text)
    after = keys()
    assert [name for name in before if before[name] != after[name]] == subcommands


@pytest.mark.parametrize(("subcommand", "flags"), [("train", TRAIN), ("stage", SLIMMING), ("stage", GRADUAL)])
def test_a_training_whose_results_cannot_be_written_is_not_repeated(digits, tmp_path, monkeypatch, capsys, subcommand, flags):
    def run():
        given = words(subcommand, flags | {"--curve": "curve.csv", "--checkpoint-seconds": 0}, digits, "a")
        return main([str(word) for word in (*given, "--device", "cpu")])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "curve.csv").mkdir()
    assert run() == 1
    assert (tmp_path / "a.checkpoint").exists()
    first = load_file("a")
    (tmp_path / "a").unlink()  # as Snakemake does
    (tmp_path / "curve.csv").rmdir()
    capsys.readouterr()
    assert run() == 0
    assert "goes on after epoch 2\n" in capsys.readouterr().err
    again = load_file("a")
    assert first.keys() == again.keys()
    assert all(torch.equal(values, again[name]) for name, values in first.items())
    assert {path.name for path in tmp_path.iterdir()} - {"p"} == {"a", "curve.csv"}
