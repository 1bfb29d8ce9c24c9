"""Check what a run produced, `check_run.py config/demo.yaml`: every cell, table, figure and the report are there.

Of the demo, whose networks are to say something, also that they learned. The dense ones reach their bars, and at equal MACs
(selections that start with "macs-") at most one network in ten is at chance after fine-tuning. Chance is the metric of a network
that answers every image, or every pixel, with the most frequent class of the test labels. A network is at chance below 1.5 times
that: a collapsed network ends at chance or a little above it, by what fine-tuning saved of one class, and a network that tells
the classes apart is far beyond.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from fgp_workflow.experiment import Experiment
from fgp_workflow.inputs import read_experiment
from fgp_workflow.layout import Layout
from torch import Tensor, nn

from fgp import data
from fgp.evaluate import evaluate

LEAST = {"digits-vgg16": 96.0, "digits-resnet50": 95.0, "scenes-segnet": 50.0, "scenes-deeplabv3": 50.0}
CHANCES = 1.5
MOST_AT_CHANCE = 0.1
_BATCH = 100


class Constant(nn.Module):
    """A network that answers everything with one class: images (N, 3, H, W) to logits (N, outputs) or (N, outputs, H, W)."""

    def __init__(self, answer: int, outputs: int, dense: bool) -> None:
        """Answer with class `answer` of `outputs`, every pixel if `dense`, else every image."""
        super().__init__()
        self.logits = torch.eye(outputs)[answer].view(1, -1, *(1, 1) * dense)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        shape = images.shape[-2:] if self.logits.ndim > 2 else ()
        return self.logits.expand(len(images), -1, *shape)


def chance(file: Path) -> float:
    """Return the top-1 or mIoU, in percent, of always answering with the most frequent test class of a data file."""
    dataset = data.load(file)
    labels = dataset.test.labels
    shown = labels[labels != dataset.void] if dataset.task == "segmentation" else labels
    model = Constant(int(shown.long().bincount().argmax()), dataset.outputs, dataset.task == "segmentation")
    return evaluate(model, dataset.test, dataset, "cpu", _BATCH)


def chance_problems(cells: pd.DataFrame, chances: Mapping[str, float]) -> list[str]:
    """Return a line that names the cells at equal MACs that are at chance, if they are more than one in ten; else no line.

    Args:
        cells: the rows of cells.csv.
        chances: `chance` of every data set in them.
    """
    equal = cells[cells.selection.str.startswith("macs-")]
    low = equal[equal.after_percent < CHANCES * equal.dataset.map(chances)]
    if len(low) <= MOST_AT_CHANCE * len(equal):
        return []
    named = ", ".join(f"{row.task} {row.method} {row.after_percent:.2f} %" for row in low.itertuples())
    return [f"{len(low)} of {len(equal)} networks at equal MACs are at chance: {named}"]


def missing(experiment: Experiment, root: Path) -> list[str]:
    """Return a line for each file that is not there or empty, below `results/<run>`."""
    paths = Layout(str(root))
    wanted = [Path(path) for path in paths.metrics(experiment) + paths.latencies(experiment)]
    wanted += [root / f"tables/table{table}.{form}" for table in experiment.tables for form in ("csv", "md", "tex", "html")]
    wanted += [root / f"figures/fig{figure}.{form}" for figure in experiment.figures for form in ("pdf", "png")]
    wanted += [root / "report.html", root / "cells.csv"]
    return [f"missing: {path}" for path in wanted if not path.exists() or not path.stat().st_size]


def strange(cells: pd.DataFrame, experiment: Experiment, root: Path) -> list[str]:
    """Return a line for whatever is wrong with a table of cells, whatever it was run for."""
    problems, asked = [], len(Layout(str(root)).metrics(experiment))
    if len(cells) != asked:
        problems.append(f"cells.csv has {len(cells)} rows, the configuration {asked} cells")
    main_cells = cells[cells.task.isin(experiment.config.tasks)]
    main_cells = main_cells.drop(columns=["before_percent", "score_seconds", "accepted_commits"])
    if main_cells.isna().any(axis=None):
        problems.append(f"cells.csv has holes in {', '.join(main_cells.columns[main_cells.isna().any()])}")
    if not (cells[cells.method != "dense"].macs < cells[cells.method != "dense"].dense_macs).all():
        problems.append("a pruned network is not smaller than its dense one")
    return problems


def learned(cells: pd.DataFrame, root: Path) -> list[str]:
    """Return a line for each network of the demo that learned too little."""
    dense = cells[cells.method == "dense"].groupby("task").after_percent.min()
    print(dense.to_string())
    low = [f"{task}: dense {dense[task]:.2f} %, expected {least} %" for task, least in LEAST.items() if not dense[task] >= least]
    return low + chance_problems(cells, {name: chance(root / f"data/{name}.safetensors") for name in cells.dataset.unique()})


def main(file: str) -> None:
    """Print what was found; exit with status 1 if anything is missing or wrong."""
    experiment = read_experiment(file)
    root = Path("results", experiment.config.run)
    cells = pd.read_csv(root / "cells.csv")
    problems = missing(experiment, root) + strange(cells, experiment, root)
    problems += learned(cells, root) if experiment.config.run == "demo" else []
    print(f"{len(cells)} cells", *problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main(sys.argv[1])
