"""metrics.json, alone and on its way into cells.csv."""

import math

import pandas as pd
from fgp_workflow import cells, collect
from strategies import fuzz, json_text, outcome

from fgp.files import write_sealed
from fgp.metrics import read_metrics, write_metrics

VALID = {
    **{"task": "toy", "dataset": "digits", "network": "vgg16", "width": 0.25, "seed": 0, "method": "fgp"},
    **{"selection": "macs-0.5", "metric": "top1", "before": 12.5, "after": 97.5, "macs": 50, "params": 40},
    **{"dense_macs": 100, "dense_params": 80, "kept": {"a": 2, "b": 8}, "channels": {"a": 4, "b": 8}},
    **{"score_seconds": 0.5, "train_seconds": 3.0, "epochs": 1, "budget": "half"},
    "provenance": {
        **{"command": "fgp train", "recipe": {"epochs": 1}, "key": "ab-cd", "digest": "ef", "commit": None, "dirty": None},
        **{"versions": {"torch": "2", "smp": None}, "hardware": {"cpu": "x", "cores": 2, "device": "cpu"}},
        **{"threads": 1, "finished": "2025-01-01T00:00:00+00:00"},
    },
}
FOLDER = "toy/seed0/fgp/macs-0.5"


@fuzz(250, json_text(VALID, sealed=True))
def test_metrics(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    values = outcome(read_metrics, path)
    if values:
        numbers = (values["width"], values["after"], values["train_seconds"])
        assert all(math.isfinite(number) for number in numbers)
        write_metrics(tmp_path / "again.json", **values)
        assert read_metrics(tmp_path / "again.json") == values
        (tmp_path / "again.json").unlink()


@fuzz(200, json_text(VALID, sealed=True))
def test_cells(tmp_path, content):
    path = tmp_path / FOLDER / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    table = outcome(lambda path: collect.collect([path]), path)
    if table is not None:
        cells.write(table, tmp_path / "cells.csv")
        pd.testing.assert_frame_equal(cells.read(tmp_path / "cells.csv"), table)


def test_the_valid_file_makes_a_row(tmp_path):
    path = tmp_path / FOLDER / "metrics.json"
    path.parent.mkdir(parents=True)
    write_sealed(path, VALID)
    assert collect.cell(path)["kept_percent"] == 1000 / 12
