"""Two runs with the same seed give the same cells."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from test_workflow import ROOT, Project

TASK = "digits-vgg16"
CONFIG = {
    "run": "twice",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits": {"source": "digits", "size": 32, "train_limit": 200, "test_limit": 100}},
    "recipes": {"short": {"epochs": 2, "batch_size": 25, "lr": 0.05, "crop_padding": 2, "flip": True}},
    "tasks": {
        TASK: {
            **{"dataset": "digits", "network": "vgg16", "width": 0.0625, "recipe": "short", "finetune": "short"},
            **{"k": {"FGP+": 0.4}, "budgets": {"FGP+": 0.5}},
            "options": {"group-fisher": {"interval": 1, "channels": 48}},
        }
    },
    "methods": ["fgp", "thinet", "slimming", "group-fisher"],
    "scoring": {"images": 100, "batch_size": 50},
    "latency": {"batch_sizes": [8], "seconds": 0.02},
}


def run(folder):
    """Run the configuration in a copy of the checkout and return the folder of its results."""
    project = Project(folder)
    project.configure(CONFIG)
    done = project.snakemake("results/twice/cells.csv", "--cores", "2")
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "results/twice"


def compare(one, other):
    words = [sys.executable, str(ROOT / ".ci/check_same.py"), str(one), str(other)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_runs_of_a_reduced_demo_give_identical_cells(tmp_path):
    one, other = (run(tmp_path / name) for name in ("one", "other"))
    same = compare(one, other)
    assert same.returncode == 0, same.stdout + same.stderr
    assert int(re.search(r"and (\d+) files of tensors", same.stdout)[1]) > 15
    cells = pd.read_csv(one / "cells.csv")
    assert set(cells.method) == {"dense", *CONFIG["methods"]}
    assert cells.after_percent.nunique() > 1

    weights = other / TASK / "seed0/slimming/sparse/model.safetensors"
    tensors = load_file(weights)
    tensors[min(tensors)].view(-1)[0] += 1e-6
    save_file(tensors, weights)
    text = (other / "cells.csv").read_text()
    (other / "cells.csv").write_text(text.replace(str(cells.macs[1]), str(cells.macs[1] + 1)))
    differ = compare(one, other)
    assert differ.returncode == 1
    assert differ.stdout.splitlines()[1:] == ["different: cells.csv", f"different: {weights.relative_to(other)}"]
