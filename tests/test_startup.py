"""What a process of the workflow imports, and the benchmark of what that takes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup
from benchmarks.__main__ import main

ROOT = Path(__file__).parents[1]
SLOW = {"torchvision", "segmentation_models_pytorch", "timm", "transformers", "matplotlib", "sklearn", "scipy", "pandas"}
TRACING = {"torch_pruning", "torch._dynamo", "sympy"}
"""torch imports the latter two, a second, for an optimiser of its own, on the meta device and to count operations."""
NETWORK = ["--network", "vgg16", "--width", "0.0625"]
TRAINING = ["--seed", "0", "--epochs", "1", "--batch-size", "50", "--lr", "0.02", "--device", "cpu"]


def imported(folder, code, *words):
    """Run a program in `folder` and return the names of the modules that it imported."""
    code += "\nimport json, sys; print(json.dumps([name for name, module in sys.modules.items() if module]))"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=folder, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def run(digits, pruned, tmp_path_factory):
    """Run a subcommand on some digits; return the names of the modules that it imported."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "data.safetensors").symlink_to(digits)
    (folder / "pruned.safetensors").symlink_to(pruned)
    code = "import sys, fgp.cli; assert fgp.cli.main(sys.argv[1:]) == 0"

    def call(*words):
        return imported(folder, code, *words, "--data", "data.safetensors")

    call("train", *NETWORK, *TRAINING, "--out", "dense.safetensors")
    call("score", "--method", "l1", "--weights", "dense.safetensors", "--seed", "0", "--out", "scores.safetensors")
    return call


@pytest.mark.parametrize(
    "words",
    [
        ["train", *NETWORK, *TRAINING, "--out", "new.safetensors", "--metrics", "new.json"],
        ["stage", "--method", "slimming", *NETWORK, *TRAINING, "--out", "sparse.safetensors", "--metrics", "sparse.json"],
        *(
            ["score", "--method", method, "--weights", "dense.safetensors", "--seed", "0", "--out", f"{method}.safetensors"]
            for method in ("l1", "fgp", "taylor", "hrank")
        ),
        ["finetune", "--weights", "pruned.safetensors", *TRAINING, "--out", "model.safetensors", "--metrics", "metrics.json"],
        ["evaluate", "--weights", "pruned.safetensors", "--device", "cpu"],
        ["measure", "--weights", "pruned.safetensors", "--batch-sizes", "1", "--seconds", "0.01", "--out", "latency.json"],
    ],
    ids=lambda words: "-".join(words[:3]),
)
def test_a_subcommand_that_traces_nothing(words, run):
    found = run(*words)
    assert "torch" in found
    assert not (SLOW | TRACING) & found


def test_subcommands_that_trace(run):
    prune = ["prune", "--weights", "dense.safetensors", "--scores", "scores.safetensors", "--selection", "macs-0.5"]
    gradual = ["stage", "--method", "frs", "--selection", "macs-0.9", "--plan", "gradual.json", *NETWORK, *TRAINING]
    for words in (
        ["budgets", *NETWORK, "--out", "budgets.json"],
        [*prune, "--write-plan", "plan.json", "--out", "new_pruned.safetensors"],
        [*gradual, "--out", "gradual.safetensors"],
    ):
        found = run(*words)
        assert "torch_pruning" in found
        assert not SLOW & found


def test_macs_of_our_networks(tmp_path):
    """But of SegNet: its max-unpooling imports sympy wherever it runs."""
    names = ["vgg16", "resnet50", "deeplabv3", "slimconv_vgg16", "slimconv_resnet50"]
    count = "cost.count(models.build(name, 2, 0.125), cost.example((3, 32, 32)))"
    code = f"import sys; from fgp import cost, models\nfor name in sys.argv[1:]: {count}"
    assert not (SLOW | TRACING) & imported(tmp_path, code, *names)
    assert not (SLOW | TRACING) & imported(tmp_path, code, "segnet") - {"sympy"}


@pytest.mark.parametrize("module", ["collect", "tables"])
def test_collection_and_tables(module, tmp_path):
    assert not (SLOW - {"pandas"} | TRACING | {"torch"}) & imported(tmp_path, f"import fgp_workflow.{module}")


def test_rows_of_the_benchmark():
    seconds = {what: [3.0, 1.5, 2.0] for what in startup.COMMANDS} | {startup.TORCH: [1.0, 1.0, 1.8], startup.PYTHON: [0.5] * 3}
    rows = {row["what"]: row for row in startup.rows(seconds)}
    train = rows["fgp train"]
    assert (train["seconds"], train["against"], train["ratio"], train["beyond"]) == ("2", "import torch", "1.5", "0.50")
    assert (train["target"], train["within"]) == (0.5, "yes")
    assert (rows["collect"]["against"], rows["collect"]["beyond"], rows["collect"]["within"]) == ("python -c pass", "1.50", "no")
    assert rows["figures"]["within"] is None


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    out = tmp_path / "out.csv"
    assert main(["startup", "--repeats", "1", "--out", str(out)]) == 0
    with open(out, newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert [*rows] == [*startup.COMMANDS]
    assert all(float(row["seconds"]) > 0 for row in rows.values())
    assert set(startup.PRINTED) <= set(rows["fgp train"])
    assert float(rows["import torch"]["seconds"]) < float(rows["fgp prune"]["seconds"])
