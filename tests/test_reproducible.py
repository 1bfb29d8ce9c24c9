"""Two runs with the same seed give the same cells."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TASK = "digits-vgg16"
CONFIG = {
    "run": "twice",
    "device": "cpu",
    "cells_per_job": 50,
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
    "methods": ["fgp", "thinet", "random", "slimming", "group-fisher", "slimconv", "scratch-e"],
    "scoring": {"images": 100, "batch_size": 50},
    "latency": {"batch_sizes": [8], "seconds": 0.02},
}
OF_THE_RUN = r"seconds$|latency|^(commit|dirty|hardware|finished)$"


def run(folder):
    """Run a configuration in a copy of the checkout and return the folder of its results."""
    for name in ("fgp", "baselines", "workflow", "results/paper"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {"PYTHONPATH": f"{folder}:{folder}/workflow", "PATH": os.pathsep.join(path)}
    words = ["snakemake", "results/twice/cells.csv", "--cores", "2", "--configfile", "config.yaml"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "results/twice"


@pytest.mark.slow
def test_two_runs_of_a_reduced_demo_give_identical_cells(tmp_path):
    import torch
    from safetensors.torch import load_file

    one, other = (run(tmp_path / name) for name in ("one", "other"))
    cells, again = (pd.read_csv(folder / "cells.csv") for folder in (one, other))
    assert set(cells.method) == {"dense", *CONFIG["methods"]}
    assert cells.after_percent.nunique() > 1
    kept = [name for name in cells if not re.search(OF_THE_RUN, name)]
    assert {"before_percent", "after_percent", "macs", "params", "kept_percent"} <= set(kept)
    pd.testing.assert_frame_equal(cells[kept], again[kept], check_exact=True)

    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    assert len(files) > 20
    for file in files:
        tensors, same = load_file(one / file), load_file(other / file)
        assert tensors.keys() == same.keys()
        assert all(torch.equal(tensors[key], same[key]) for key in tensors), file
