"""`cells.csv` as a DataFrame: tidy, one row a cell, units in the column names; and statistics over its seeds."""

import csv
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from fgp.errors import FgpError
from fgp.files import atomic, require_file
from fgp_workflow.experiment import Experiment

KEYS = ["task", "seed", "method", "selection"]
PATH = ["task", "method", "selection"]
CellPath = tuple[str, str, str]
"""The values of `PATH`: a cell without its seed."""
COLUMNS = {
    **dict.fromkeys(("task", "dataset", "network"), "string"),
    "width": "float64",
    "seed": "int64",
    **dict.fromkeys(("method", "selection", "metric"), "string"),
    **dict.fromkeys(("before_percent", "after_percent"), "float64"),
    **dict.fromkeys(("macs", "params", "dense_macs", "dense_params"), "int64"),
    **dict.fromkeys(("macs_remaining_percent", "params_remaining_percent", "kept_percent"), "float64"),
    **dict.fromkeys(("score_seconds", "train_seconds"), "float64"),
    "epochs": "int64",
    "commit": "string",
    "dirty": "boolean",
    **dict.fromkeys(("hardware", "finished", "latency_hardware"), "string"),
    "accepted_code": "boolean",
    "accepted_commits": "string",
}
"""The columns of every `cells.csv` with their types; those of the latency stand behind them."""
LATENCY = ("median_ms", "q1_ms", "q3_ms", "images_per_second")
STATISTICS = ["mean", "std", "count"]
_REQUIRED = [*KEYS, "dataset", "network", "metric", "width", "after_percent", "accepted_code"]
_REQUIRED += [name for name, kind in COLUMNS.items() if kind == "int64" and name not in _REQUIRED]
_LATENCY = re.compile(rf"latency_b([0-9]{{1,9}})_({'|'.join(LATENCY)})")
_MOST = {"float64": sys.float_info.max, "int64": (1 << 63) - 1}
_WORDS = {"boolean": "True or False", "float64": "number", "int64": "whole number"}
_TRUTH = {"True": True, "False": False, "": pd.NA}


def latency_column(batch: int | str, name: str) -> str:
    """Return the column of a latency, one of `LATENCY`, at a batch size."""
    return f"latency_b{batch}_{name}"


def batch_sizes(columns: Iterable[str]) -> list[int]:
    """Return the batch sizes at which latency was measured, by the columns that there are, in increasing order."""
    return sorted({int(found[1]) for found in map(_LATENCY.fullmatch, columns) if found})


def frame(rows: Sequence[Mapping]) -> pd.DataFrame:
    """Return rows as a table with all columns, sorted by task, seed, method and selection; None stands for what is missing."""
    batches = batch_sizes({name for row in rows for name in row})
    latency = [latency_column(batch, name) for batch in batches for name in LATENCY]
    cells = pd.DataFrame(rows, columns=[*COLUMNS, *latency]).astype({**COLUMNS, **dict.fromkeys(latency, "float64")})
    return cells.sort_values(KEYS, ignore_index=True)


def write(cells: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write cells as CSV, atomically; what is missing is an empty field."""
    with atomic(path) as aside:
        aside.write_text(cells.to_csv(index=False, lineterminator="\n"), newline="")


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read `cells.csv` back, with the types of `COLUMNS`.

    Raises:
        FgpError: the file cannot be read, lacks a column, holds a field that is no number where one belongs, or repeats a cell.
    """
    advice = "write it with python -m fgp_workflow.collect"
    require_file(path, advice)
    try:
        lines = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, engine="python")
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    except (ValueError, csv.Error) as error:
        raise FgpError(f"{path}: not a table of cells, or a row has more fields than the header ({error}); {advice}") from None
    header, texts = lines.iloc[0], lines[1:].reset_index(drop=True)
    if missing := [name for name in COLUMNS if name not in set(header)]:
        raise FgpError(f"{path}: lacks the columns {', '.join(missing)}; {advice}")
    if lines.isna().any(axis=None) or not header.is_unique:
        raise FgpError(
            f"{path}: a row has more or fewer fields than the header, or a column stands twice; collect the cells again"
        )
    cells = pd.DataFrame({name: _parsed(name, texts[i], path) for i, name in header.items()})
    if (twice := cells.duplicated(KEYS)).any():
        raise FgpError(f"{path}: {named(cells[twice].iloc[0][KEYS])} occurs twice; collect the cells again")
    return cells


def _parsed(name: str, texts: pd.Series, path: str | os.PathLike) -> pd.Series:
    """Return the values of a column, with its type."""
    empty = texts == ""
    if name in _REQUIRED and empty.any():
        raise FgpError(f"{path}: column {name}: a field is empty; collect the cells again")
    kind = COLUMNS.get(name, "float64")
    if kind == "string":
        return texts.mask(empty).astype(kind)
    if kind == "boolean":
        wrong = ~texts.isin(_TRUTH)
        values = texts.map(_TRUTH)
    else:
        values = pd.to_numeric(texts.mask(empty), errors="coerce")
        wrong = ~empty & ~values.abs().le(_MOST[kind])
        if kind == "int64":
            wrong |= ~texts.str.fullmatch("[0-9]{1,19}")
    if wrong.any():
        raise FgpError(f"{path}: column {name}: {texts[wrong].iloc[0]!r} is no {_WORDS[kind]}; collect the cells again")
    return values.astype(kind)


def named(key: Iterable) -> str:
    """Return the values of `KEYS` in words."""
    return " ".join(f"{name}={value}" for name, value in zip(KEYS, key, strict=True))


def by_seed(cells: pd.DataFrame, paths: Sequence[CellPath], column: str = "after_percent") -> pd.DataFrame:
    """Return a column of `cells`: one line a seed, one column (0, 1, ...) a path; NaN for holes."""
    values = cells.pivot(index="seed", columns=PATH, values=column)
    chosen = values.reindex(columns=pd.MultiIndex.from_tuples(paths, names=PATH))
    return chosen.set_axis(range(len(paths)), axis="columns").astype("float64")


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """Return mean, sample standard deviation (NaN for a single seed) and count of every column, one line a column."""
    return values.agg(STATISTICS).T


def asked(experiment: Experiment, paths: Iterable[CellPath]) -> pd.MultiIndex:
    """Return the keys of the cells that an experiment asks for at some paths, every seed."""
    keys = [(task, seed, method, selection) for task, method, selection in paths for seed in experiment.seeds_of(task)]
    return pd.MultiIndex.from_tuples(dict.fromkeys(keys), names=KEYS)


def remarks(cells: pd.DataFrame, wanted: pd.MultiIndex) -> tuple[str, ...]:
    """Return what the title of a result says of its cells: how many are missing, how many were made by other code."""
    there = cells.set_index(KEYS)
    there = there.loc[there.index.isin(wanted)]
    said = []
    if missing := len(wanted) - len(there):
        said.append(f"incomplete: {missing} of {len(wanted)} cells missing")
    if accepted := there["accepted_code"].sum():
        said.append(
            f"{accepted} of {len(there)} cells were made by other code than the present, or from results of such, and accepted "
            f"by accept_code: {', '.join(commits(there))}"
        )
    return tuple(said)


def commits(cells: pd.DataFrame) -> list[str]:
    """Return the commits of the other code that made cells, each once."""
    return sorted({commit for text in cells["accepted_commits"].dropna() for commit in text.split()})
