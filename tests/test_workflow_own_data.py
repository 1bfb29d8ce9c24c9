"""What a user sees who brings data of her own: tables, figures, and refusals before anything is trained."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_workflow import Project

pytestmark = pytest.mark.slow

CONFIG = {
    "run": "mine",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"shapes": {"source": "folder:shapes", "size": 16}},
    "recipes": {"short": {"epochs": 2, "batch_size": 16, "lr": 0.05}},
    "tasks": {
        "shapes-resnet": {
            **{"dataset": "shapes", "network": "resnet50", "width": 0.0625, "recipe": "short", "finetune": "short"},
            **{"budgets": {"half": 0.5}, "k": {"as in the paper": 0.4}},
        }
    },
    "methods": ["fgp", "l1"],
    "latency": {"batch_sizes": [4], "seconds": 0.02},
    "figures": {"fig3a": {"task": "shapes-resnet", "k": [0.4, 0.8]}},
}


def draw(folder, kind, number, rng):
    """Write an image with a square or a ring of random place and colour."""
    picture = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
    top, left = rng.integers(2, 8, 2)
    picture[top : top + 10, left : left + 10] = rng.integers(120, 255, 3)
    if kind == "ring":
        picture[top + 3 : top + 7, left + 3 : left + 7] = 20
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made, rng = Project(tmp_path_factory.mktemp("own data")), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for kind in ("ring", "square"):
            for number in range(count):
                draw(made.folder / "my data/shapes" / split / kind, kind, number, rng)
    made.configure({**CONFIG, "data_root": str(made.folder / "my data")})
    return made


def test_her_run_ends_in_tables_and_figures(project):
    done = project.snakemake("--cores", "2", "all_tables", "all_figures")
    assert done.returncode == 0, done.stderr + done.stdout
    results = project.folder / "results/mine"
    cells = pd.read_csv(results / "cells.csv")
    assert len(cells) == 6
    assert not list((results / "tables").glob("table[23].*"))
    for suffix in ("csv", "md", "tex", "html"):
        text = (results / f"tables/table1.{suffix}").read_text()
        assert f"{cells[cells.method == 'l1'].after_percent.item():.2f}"[:4] in text
        assert "paper" not in text.replace("as in the paper", "")
    assert (results / "figures/fig3a.png").stat().st_size > 10_000


def test_another_image_under_the_same_name_is_noticed(project):
    assert "Nothing to be done" in project.snakemake("--cores", "2", "all_tables", "--dry-run").stdout
    draw(project.folder / "my data/shapes/train/ring", "ring", 0, np.random.default_rng(1))
    planned = project.snakemake("--cores", "2", "all_tables", "--dry-run").stdout
    assert "1  data " in planned
    assert "1  train " in planned


def test_a_budget_out_of_reach_is_refused_before_anything_is_trained(project):
    def asking(**changes):
        task = {**CONFIG["tasks"]["shapes-resnet"], "budgets": {"tenth": 0.1}} | changes
        root = str(project.folder / "my data")
        project.configure({**CONFIG, "run": "tenth", "data_root": root, "tasks": {"shapes-resnet": task}})
        return project.snakemake("--cores", "2", "all_tables", "--until", "budgets")

    done = asking()
    assert done.returncode != 0
    assert "macs-0.1000 cannot be met" in done.stderr
    assert "`tied: true`" in done.stderr
    assert asking(tied=True).returncode == 0

    again = asking()
    assert again.returncode != 0
    assert "config/tiny.yaml: tasks.shapes-resnet: resnet50 at width 0.0625: macs-0.1000 cannot be met" in again.stderr
    assert not list((project.folder / "results/tenth").rglob("model.safetensors"))
