"""latency.json and cells.csv."""

import math

from fgp_workflow import cells, collect
from hypothesis import strategies as st
from strategies import damaged, fuzz, json_text, outcome
from test_fuzz_metrics import FOLDER, VALID

from fgp.files import write_sealed

NUMBERS = {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 2.5, "images_per_second": 500.0}
LATENCY = {
    "latency": {"dense/unpruned": {"1": NUMBERS, "128": NUMBERS}, "fgp/macs-0.5": {"1": NUMBERS}},
    **{"input_size": [3, 32, 32], "threads": 1},
    "provenance": {"hardware": {"cpu": "x", "device": "cpu"}, "threads": 1},
}
FIELDS = ("", "nan", "inf", "-1", "x", "1_0", "²", "9" * 5000, '"', "a,b", "\r", "\x00", "\n", "é", "True", "0.5", "1e400")


@fuzz(250, json_text(LATENCY, sealed=True))
def test_latency(tmp_path, content):
    path = tmp_path / "toy" / "seed0" / "latency.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    for columns in (outcome(collect.latencies, path) or {}).values():
        hardware = columns.pop("latency_hardware")
        assert hardware is None or hardware.encode()
        assert (columns.pop("accepted_code"), columns.pop("accepted_commits")) == (False, None)
        assert all(math.isfinite(value) and value >= 0 for value in columns.values())
        assert not columns or cells.batch_sizes(columns)


def written(folder):
    path = folder / FOLDER / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, VALID)
    row = collect.cell(path)
    cells.write(cells.frame([row | {"seed": seed} for seed in range(2)]), folder / "cells.csv")
    return folder / "cells.csv"


def check(table):
    if table is None:
        return
    assert not table[[*cells.KEYS, "after_percent", "macs", "width", "accepted_code"]].isna().any(axis=None)
    assert {name: str(table[name].dtype) for name in cells.COLUMNS} == cells.COLUMNS
    numbers = table.select_dtypes("number")
    assert (numbers.isna() | numbers.abs().lt(math.inf)).all(axis=None)


@fuzz(150, st.data())
def test_damaged_cells(tmp_path, data):
    path = written(tmp_path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    check(outcome(cells.read, path))


@fuzz(100, st.integers(0, 2), st.integers(0, 30), st.sampled_from(FIELDS))
def test_wrong_fields_of_cells(tmp_path, line, column, field):
    path = written(tmp_path)
    lines = [text.split(",") for text in path.read_text().splitlines()]
    lines[line][column % len(lines[line])] = field
    path.write_text("\n".join(map(",".join, lines)), newline="")
    check(outcome(cells.read, path))
