"""Configurations and cells of `cells.csv` that no run has made."""

import pandas as pd
from fgp_workflow.cells import COLUMNS, frame
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment

RECIPES = {"long": {"epochs": 9, "lr": 0.1}, "short": {"epochs": 1, "lr": 0.01}}
WHOLE = {
    **dict.fromkeys(COLUMNS),
    **{"dataset": "digits32", "network": "vgg16", "width": 1.0, "metric": "top1", "epochs": 1, "accepted_code": False},
    **dict.fromkeys(("macs", "params", "dense_macs", "dense_params"), 100),
}
"""A row of cells.csv with every field that may not be empty."""


def experiment(**sections: object) -> Experiment:
    """Return the experiment of a configuration, seeds 0 and 1 unless others are given."""
    return Experiment(load({"run": "made-up", "seeds": [0, 1], "recipes": RECIPES, **sections}, "made-up.yaml"))


def task(dataset: str, network: str, **keys: object) -> dict:
    """Return a task of a configuration."""
    return {"dataset": dataset, "network": network, "recipe": "long", "finetune": "short", **keys}


def row(task: str, path: str, seed: int, after: float, **columns: object) -> dict:
    """Return a row of cells.csv; `path` is <method>/<selection>."""
    method, selection = path.split("/")
    key = {"task": task, "method": method, "selection": selection, "seed": seed, "after_percent": after}
    return {**WHOLE, "macs_remaining_percent": 30.0, **key, **columns}


def table(rows: list[dict]) -> pd.DataFrame:
    """Return rows as `fgp_workflow.cells.read` would."""
    return frame(rows)
