"""latency.json and cells.csv."""

import math

from fgp_workflow import collect
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
        assert all(math.isfinite(value) and value >= 0 for value in columns.values())
        assert all(int(name.split("_")[1][1:]) >= 0 for name in columns)


def cells(folder):
    path = folder / FOLDER / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, VALID)
    rows = collect.collect([path])
    collect.write([row | {"seed": seed} for row in rows for seed in range(2)], folder / "cells.csv")
    return folder / "cells.csv"


def check(rows):
    for row in rows or ():
        assert all(row[name] is not None for name in (*collect.KEYS, "after_percent", "macs", "width"))
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


@fuzz(150, st.data())
def test_damaged_cells(tmp_path, data):
    path = cells(tmp_path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    check(outcome(collect.read, path))


@fuzz(100, st.integers(0, 2), st.integers(0, 30), st.sampled_from(FIELDS))
def test_wrong_fields_of_cells(tmp_path, line, column, field):
    path = cells(tmp_path)
    lines = [text.split(",") for text in path.read_text().splitlines()]
    lines[line][column % len(lines[line])] = field
    path.write_text("\n".join(map(",".join, lines)), newline="")
    check(outcome(collect.read, path))
