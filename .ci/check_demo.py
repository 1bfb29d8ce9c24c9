"""Check what the demo produced: every cell, table, figure and the report are there, and the networks really learned.

The dense networks reach their bars, and at equal MACs (selections that start with "macs-") at most one network in ten is at
chance after fine-tuning. Chance is the metric of a network that answers every image, or every pixel, with the most frequent class
of the test labels. A network is at chance below 1.5 times that: a collapsed network ends at chance or a little above it, by what
fine-tuning saved of one class, and a network that tells the classes apart is far beyond.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
import yaml
from fgp_workflow.config import load
from fgp_workflow.grid import Grid
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


def main() -> None:
    """Print what was found; exit with status 1 if anything is missing or wrong."""
    file = "config/demo.yaml"
    grid = Grid(load(yaml.safe_load(Path(file).read_text()), file))
    root = Path("results/demo")
    wanted = [root / folder / "metrics.json" for folder in grid.folders()]
    wanted += [root / f"tables/table{table}.{ext}" for table in (1, 2, 3) for ext in ("csv", "md", "tex")]
    wanted += [root / f"figures/{name}.{ext}" for name, drawn in grid.config.figures if drawn for ext in ("pdf", "png")]
    wanted += [root / "report.html", root / "cells.csv"]
    problems = [f"missing: {path}" for path in wanted if not path.exists() or not path.stat().st_size]
    cells = pd.read_csv(root / "cells.csv")
    dense = cells[cells.method == "dense"].groupby("task").after_percent.min()
    problems += [
        f"{task}: dense {dense[task]:.2f} %, expected {least} %" for task, least in LEAST.items() if not dense[task] >= least
    ]
    problems += chance_problems(cells, {name: chance(root / f"data/{name}.safetensors") for name in cells.dataset.unique()})
    if len(cells) != len(grid.folders()):
        problems.append(f"cells.csv has {len(cells)} rows, the grid {len(grid.folders())}")
    main_cells = cells[cells.task.isin(grid.config.tasks)].drop(columns=["before_percent", "score_seconds"])
    if main_cells.isna().any(axis=None):
        problems.append(f"cells.csv has holes in {', '.join(main_cells.columns[main_cells.isna().any()])}")
    pruned = cells[cells.method != "dense"]
    if not (pruned.macs < pruned.dense_macs).all():
        problems.append("a pruned network is not smaller than its dense one")
    print(dense.to_string(), f"{len(cells)} cells", *problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
