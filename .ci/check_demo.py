"""Check what the demo produced: every cell, table, figure and the report are there, and the dense networks really learned."""

import sys
from pathlib import Path

import pandas as pd
import yaml
from fgp_workflow.config import load
from fgp_workflow.grid import Grid

LEAST = {"digits-vgg16": 94.0, "digits-resnet50": 94.0, "scenes-segnet": 25.0, "scenes-deeplabv3": 25.0}


def main() -> None:
    """Print what was found; exit with status 1 if anything is missing or wrong."""
    file = "config/demo.yaml"
    grid = Grid(load(yaml.safe_load(Path(file).read_text()), file))
    root = Path("results/demo")
    wanted = [root / folder / "metrics.json" for folder in grid.folders()]
    wanted += [root / f"tables/table{table}.{ext}" for table in (1, 2, 3) for ext in ("csv", "md", "tex")]
    wanted += [root / f"figures/fig{figure}.{ext}" for figure in ("1", "3a", "3b", "4") for ext in ("pdf", "png")]
    wanted += [root / "report.html", root / "cells.csv"]
    problems = [f"missing: {path}" for path in wanted if not path.exists() or not path.stat().st_size]
    cells = pd.read_csv(root / "cells.csv")
    dense = cells[cells.method == "dense"].groupby("task").after_percent.min()
    problems += [
        f"{task}: dense {dense[task]:.2f} %, expected {least} %" for task, least in LEAST.items() if not dense[task] > least
    ]
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
