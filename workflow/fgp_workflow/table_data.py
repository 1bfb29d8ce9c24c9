"""A table's content: the rows of its tasks with their numbers over the seeds, footnotes, and the notes below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fgp.models.names import NETWORKS
from fgp_workflow import paper
from fgp_workflow.cells import CellPath, asked, batch_sizes, by_seed, commits, latency_column, over_seeds, remarks
from fgp_workflow.experiment import DENSE, Experiment
from fgp_workflow.table_rows import Row, rows_of

TITLES = {1: "Classification", 2: "Semantic segmentation", 3: "VGG-16 and methods that estimate the effect of removing a channel"}
METRICS = {"classification": "top-1", "segmentation": "mIoU"}
TOLERANCE = 0.005
NOT_THERE = "not there: failed or not run"
COLUMNS = (
    "macs",
    "macs_remaining_percent",
    "params",
    "params_remaining_percent",
    "before_percent",
    "after_percent",
    "score_seconds",
)
_BESIDE_TABLE_3 = {"table": "T3", "backbone": "VGG-16", "column": "acc_cifar10"}
_NOWHERE = ("", "", "")
_COSTS = {
    "remaining": "percentages beside them are what remains of the dense network's.",
    "reduction": "percentages beside them are what is saved of the dense network's.",
}


@dataclass(frozen=True)
class Block:
    """The rows of one task.

    Attributes:
        facts: what identifies the task in the CSV: "task", "dataset", "network", "width", "backbone" (as printed, or None).
        title: data set and network.
        remark: how the task differs from the experiment whose printed numbers stand beside it; "" where it does not.
        metric: "top-1" or "mIoU".
        rows: its rows.
        numbers: one line a row, columns (name, "mean" | "std" | "count"): the `COLUMNS`, the latencies, "minus_dense_points" and
            "minus_fgp_points", paired by seed; NaN for what is not there.
        seeds: how many seeds the configuration asks for.
        best: by row, whether its mean after fine-tuning is the highest at its budget.
        accepted: by row, the seeds whose cells were made by other code than the present, and that code's commits.
        footnotes: (row, shown column) -> texts.
        notes: what stands below the table.
    """

    facts: Mapping[str, object]
    title: str
    remark: str
    metric: str
    rows: tuple[Row, ...]
    numbers: pd.DataFrame
    seeds: int
    best: tuple[bool, ...]
    accepted: tuple[tuple[tuple[int, ...], str], ...]
    footnotes: Mapping[tuple[int, str], tuple[str, ...]]
    notes: tuple[str, ...]

    def expected(self, row: int) -> int:
        """Return how many seeds a row should have: none where it is only printed."""
        return self.seeds if self.rows[row].method else 0


@dataclass(frozen=True)
class Table:
    """A table: its number as in the paper, what it is about, its convention of percentages of cost, a block a task, and remarks.

    `percent` is "remaining" or "reduction"; `remarks` are what the title says of its cells: missing, made by other code.
    """

    number: int
    title: str
    percent: str
    blocks: tuple[Block, ...]
    remarks: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The title with the remarks."""
        return f"{self.title} ({'; '.join(self.remarks)})" if self.remarks else self.title

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all blocks, each once."""
        return tuple(dict.fromkeys(note for block in self.blocks for note in block.notes))


def build(number: int, cells: pd.DataFrame, experiment: Experiment, printed: Mapping) -> Table:
    """Build a table.

    Args:
        number: 1 (classification), 2 (segmentation) or 3 (the first VGG-16 task, beside what the paper's Table 3 prints).
        cells: of `cells.csv`, as `cells.read` returns them.
        experiment: the configuration.
        printed: the content of `config/printed/tables.yaml`.

    Raises:
        FgpError: the configuration points at rows that the paper does not print.
    """
    section = printed[f"T{number}"]
    blocks = tuple(_block(number, name, cells, experiment, printed) for name in _tasks(number, experiment))
    paths = [(block.facts["task"], row.method, row.selection) for block in blocks for row in block.rows if row.method]
    said = remarks(cells, asked(experiment, paths)) if blocks else ()
    return Table(number, TITLES[number], section["percent"], blocks, said)


def _tasks(number: int, experiment: Experiment) -> list[str]:
    if number == 3:
        return [experiment.table3_task] if experiment.table3_task else []
    wanted = "segmentation" if number == 2 else "classification"
    return [name for name, task in experiment.config.tasks.items() if NETWORKS[task.network].task == wanted]


def _block(number: int, name: str, cells: pd.DataFrame, experiment: Experiment, printed: Mapping) -> Block:
    task = experiment.tasks[name]
    beside = task.paper.model_dump() if task.paper else None
    where = _BESIDE_TABLE_3 if number == 3 else beside
    prints = {row.method: row for row in paper.rows_of(printed, **where)} if where else {}
    rows = tuple(rows_of(experiment, name, prints, printed_only=number == 3))
    paths, seeds = [(name, row.method, row.selection) for row in rows], experiment.seeds_of(name)
    after = by_seed(cells, paths)
    numbers = _numbers(cells, paths, rows, after)
    accepted = tuple(_accepted(cells, path) for path in paths)
    absent = [sorted(set(seeds) - set(after[i].dropna().index)) for i in range(len(rows))]
    return Block(
        facts={
            "task": name,
            "dataset": task.dataset,
            "network": task.network,
            "width": task.width,
            "backbone": where["backbone"] if where else None,
        },
        title=f"{task.dataset}, {task.network}" + (f" at width {task.width:g}" if task.width != 1 else ""),
        remark=paper.difference(experiment, name, where) if where else "",
        metric=METRICS[NETWORKS[task.network].task],
        rows=rows,
        numbers=numbers,
        seeds=len(seeds),
        best=_best(rows, numbers["after_percent"], len(seeds)),
        accepted=accepted,
        footnotes={
            (i, column): texts
            for i, row in enumerate(rows)
            for column, texts in _footnotes(row, numbers.loc[i], absent[i], accepted[i])
        },
        notes=tuple(_notes(rows, printed[f"T{number}"])),
    )


def _numbers(cells: pd.DataFrame, paths: Sequence[CellPath], rows: Sequence[Row], after: pd.DataFrame) -> pd.DataFrame:
    """Return means, standard deviations and counts over seeds; see `Block.numbers`."""
    latency = [latency_column(batch, name) for batch in batch_sizes(cells) for name in ("images_per_second", "median_ms")]
    numbers = {column: over_seeds(by_seed(cells, paths, column)) for column in (*COLUMNS, *latency)}
    compared = {
        "minus_dense_points": [(task, *DENSE) if method != DENSE[0] else _NOWHERE for task, method, _ in paths],
        "minus_fgp_points": [
            (task, "fgp", row.reference) if row.reference else _NOWHERE for (task, *_), row in zip(paths, rows, strict=True)
        ],
    }
    numbers |= {column: over_seeds(after - by_seed(cells, others)) for column, others in compared.items()}
    return pd.concat(numbers, axis="columns")


def _best(rows: Sequence[Row], after: pd.DataFrame, seeds: int) -> tuple[bool, ...]:
    """Mark the best of the rows at the same MACs; a row that lacks seeds does not compete, and one alone is not the best."""
    competing = after["mean"].where(pd.Series([row.competes for row in rows]) & (after["count"] >= seeds))
    budgets = competing.groupby([row.budget for row in rows])
    return tuple(competing.eq(budgets.transform("max")) & budgets.transform("count").gt(1))


def _accepted(cells: pd.DataFrame, path: CellPath) -> tuple[tuple[int, ...], str]:
    """Return the seeds of a row whose cells were made by other code, and its commits."""
    task, method, selection = path
    chosen = (cells["task"] == task) & (cells["method"] == method) & (cells["selection"] == selection)
    found = cells[chosen & cells["accepted_code"]]
    return tuple(found["seed"]), ", ".join(commits(found))


def _footnotes(row: Row, numbers: pd.Series, absent: Sequence[int], accepted: tuple[Sequence[int], str]):
    """Yield (column, footnotes) of a row, in the order of the columns; `absent` are its seeds without a cell."""
    count = {name: int(numbers[name, "count"]) for name in ("after_percent", "minus_dense_points", "minus_fgp_points")}
    there = count["after_percent"]
    if row.notes:
        yield "label", row.notes
    if not row.method:
        return
    about_seeds = [f"seed {', '.join(map(str, absent))} {NOT_THERE}."] if there and absent else []
    if accepted[0]:
        about_seeds.append(
            f"seed {', '.join(map(str, accepted[0]))}: made by other code ({accepted[1]}), accepted by accept_code."
        )
    if about_seeds:
        yield "n", tuple(about_seeds)
    remaining = numbers["macs_remaining_percent", "mean"]
    if row.share and abs(remaining / 100 - row.share) > TOLERANCE * row.share:
        yield "macs", (f"Misses its MACs by more than {100 * TOLERANCE:g} %: no selection came closer.",)
    if not there:
        yield "after", (f"{NOT_THERE}.",)
    compared = {"minus_dense_points": row.method != DENSE[0], "minus_fgp_points": bool(row.reference)}
    for name in (name for name, applies in compared.items() if applies and count[name] < there):
        yield name, (f"over {count[name]} of {there} seeds; what the others are compared with is {NOT_THERE}.",)


def _notes(rows: Sequence[Row], section: Mapping):
    """Yield what has to be said below rows such as these; `section` is the table's part of `config/printed/tables.yaml`."""
    printed = any(row.printed for row in rows)
    yield (
        "MACs (one multiply-add counts once) and parameters are counted on the network that really lost its channels; "
        + _COSTS[section["percent"]]
    )
    if any(row.method == "fgp" and row.share is None for row in rows):
        yield (
            "FGP as defined has two readings. Section 5.4: a layer keeps the smallest set of channels that holds the share k of "
            "its scores. Eq. 11: it keeps the share k of its channels, rounded up."
            + (" The printed costs follow from neither; the printed row stands beside the first." if printed else "")
        )
    if any(row.competes for row in rows):
        yield "Equal MACs: every method is pruned to the same share of the dense network's MACs" + (
            ", the one that the paper prints for FGP." if any(row.competes and row.printed for row in rows) else "."
        )
    yield (
        "Values are means, ± the sample standard deviation where n > 1 seeds. Differences are in percentage points, paired "
        "by seed: Δ dense to the unpruned network, Δ FGP to FGP at the same MACs. "
        "Before and after mean before and after fine-tuning."
    )
    yield (
        "Bold: the highest mean after fine-tuning among the rows pruned to the same MACs; a row that lacks seeds does not "
        "compete. — : does not apply, or not run here."
    )
    if printed:
        yield f"Printed numbers stand as printed; what the paper calls FLOPs are MACs. {section['note'].strip()}"
