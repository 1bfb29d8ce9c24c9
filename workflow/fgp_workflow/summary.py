"""Means, sample standard deviations and paired differences over seeds; what is said of cells that are not there."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """Mean and sample standard deviation (None for a single value) of n values."""

    mean: float
    sd: float | None
    n: int


def estimate(values: Iterable[float]) -> Estimate | None:
    """Summarise values; None for no value. The standard deviation divides by n - 1."""
    values = list(values)
    if not values:
        return None
    return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Summarise `value - reference` over the seeds that both have."""
    return estimate(values[seed] - reference[seed] for seed in values if seed in reference)


def seeds_of(config: Mapping, task: str) -> tuple[int, ...]:
    """Return the seeds that the configuration asks for in a task."""
    return tuple(config["tasks"][task].get("seeds") or config["seeds"])


def incomplete(missing: int, expected: int) -> str:
    """Return what the title says of a result that lacks cells, "" where none is missing."""
    return f"incomplete: {missing} of {expected} cells missing" if missing else ""


class Cells:
    """The rows of `cells.csv` by (task, method, selection); `columns` are their column names."""

    def __init__(self, rows: Iterable[Mapping]) -> None:
        rows = list(rows)
        self.columns = list(rows[0]) if rows else []
        self._cells: dict[tuple[str, str, str], list[Mapping]] = {}
        for row in rows:
            self._cells.setdefault((row["task"], row["method"], row["selection"]), []).append(row)

    def values(self, task: str, method: str, selection: str, column: str) -> dict[int, float]:
        """Return seed -> value of a column; seeds without a value are left out."""
        rows = self._cells.get((task, method, selection), ())
        return {row["seed"]: row[column] for row in rows if row.get(column) is not None}
