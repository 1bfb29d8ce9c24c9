"""The paper's Tables 1 to 3 from `cells.csv`, our numbers beside the printed ones, as CSV, Markdown and LaTeX."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fgp.errors import exit_status
from fgp.methods import Method
from fgp.models.names import NETWORKS
from fgp.selections import parse
from fgp_workflow import collect, paper
from fgp_workflow.grid import equal_macs
from fgp_workflow.inputs import read_config, read_yaml
from fgp_workflow.summary import Cells, Estimate, estimate, incomplete, paired, seeds_of

TITLES = {1: "Classification", 2: "Semantic segmentation", 3: "VGG-16 and methods that estimate the effect of removing a channel"}
METRICS = {"classification": "top-1", "segmentation": "mIoU"}
OWN = "own"
TOLERANCE = 0.005
NOT_THERE = "not there: failed or not run"
_EQUAL = "macs-"
_COLUMNS = (
    "macs",
    "macs_remaining_percent",
    "params",
    "params_remaining_percent",
    "before_percent",
    "after_percent",
    "score_seconds",
)
_NOTES = (
    "MACs and parameters are counted on the network that really lost its channels. What the paper calls FLOPs are MACs: one "
    "multiply-add counts once.",
    "FGP has two rows a budget. As defined: a layer keeps the smallest set of channels that holds the share k of its scores. The "
    "printed costs cannot follow from that definition; equal MACs therefore selects by the same scores at the share of MACs that "
    "the paper prints, and every other method is pruned to that share too.",
    "Values are means, ± the sample standard deviation where n > 1 seeds. Differences are in percentage points, paired by seed: "
    "Δ dense to the unpruned network, Δ FGP to FGP at the same MACs. Before and after mean before and after fine-tuning.",
    "Bold: the highest mean after fine-tuning among the rows pruned to the same MACs; a row that lacks seeds does not compete. "
    "— : does not apply, or not run here.",
)
_PERCENT = {
    "remaining": "Percentages beside MACs and parameters are what remains of the dense one, as in the paper's Table {number}.",
    "reduction": "Percentages beside MACs and parameters are what is saved, as in the paper's Table {number}.",
}


@dataclass(frozen=True)
class Row:
    """One table row.

    Attributes:
        budget: "FGP*", "FGP+", ... ; "own" where a method is pruned to its own printed MACs; "" for the dense network.
        method: file in `baselines/`, "dense", or "" for a row that is only printed.
        label: the method as shown.
        selection: as in the cell's path; "" for a row that is only printed.
        way: the selection as shown.
        n: seeds with a result, of `expected`.
        values: column -> estimate over seeds; None where there is none.
        printed: the paper's row.
        best: highest mean after fine-tuning at its budget.
        notes: column -> footnotes.
    """

    budget: str
    method: str
    label: str
    selection: str
    way: str
    n: int = 0
    expected: int = 0
    values: Mapping[str, Estimate | None] = field(default_factory=dict)
    printed: paper.PrintedRow | None = None
    best: bool = False
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """The rows of one task; `facts` identify it in the CSV, `remark` says how it differs from the paper's, if it does."""

    facts: Mapping[str, object]
    title: str
    remark: str
    metric: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        number: as in the paper.
        title: what it is about.
        percent: "remaining" or "reduction", the convention of every percentage of cost.
        blocks: one a task.
        notes: below the table.
        incomplete: how many of its cells are missing, as the title says it; "" for none.
    """

    number: int
    title: str
    percent: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    incomplete: str = ""


def build(number: int, rows: Sequence[Mapping], config: Mapping, methods: Mapping[str, Method], printed: Mapping) -> Table:
    """Build a table.

    Args:
        number: 1 (classification), 2 (segmentation) or 3 (the first VGG-16 task, beside what the paper's Table 3 prints).
        rows: of `cells.csv`, as `collect.read` returns them.
        config: the experiment's configuration, as `inputs.read_config` returns it.
        methods: the facts of every method that the configuration names.
        printed: the content of `config/printed/tables.yaml`.

    Raises:
        FgpError: the configuration points at rows that the paper does not print.
    """
    cells, section = Cells(rows), printed[f"T{number}"]
    blocks = tuple(_block(number, name, cells, config, methods, printed) for name in _tasks(number, config))
    notes = [_NOTES[0], _PERCENT[section["percent"]].format(number=number), *_NOTES[1:]]
    if any(row.printed for block in blocks for row in block.rows):
        notes.append(f"Printed numbers stand as printed. {section['note'].strip()}")
    wanted = {(block.facts["task"], row.method, row.selection): row for block in blocks for row in block.rows}
    expected = sum(row.expected for row in wanted.values())
    there = sum(min(row.n, row.expected) for row in wanted.values())
    return Table(number, TITLES[number], section["percent"], blocks, tuple(notes), incomplete(expected - there, expected))


def _tasks(number: int, config: Mapping) -> list[str]:
    kind = "segmentation" if number == 2 else "classification"
    names = [name for name, task in config["tasks"].items() if NETWORKS[task["network"]].task == kind]
    if number == 3:
        names = [name for name in names if config["tasks"][name]["network"] == "vgg16"]
        names.sort(key=lambda name: (config["tasks"][name]["paper"] or {}).get("column") != "acc_cifar10")
    return names[:1] if number == 3 else names


def _block(number: int, name: str, cells: Cells, config: Mapping, methods: Mapping[str, Method], printed: Mapping) -> Block:
    task = config["tasks"][name]
    where = {"table": "T3", "backbone": "VGG-16", "column": "acc_cifar10"} if number == 3 else task["paper"]
    prints = {row.method: row for row in paper.rows_of(printed, **where)} if where else {}
    kind = NETWORKS[task["network"]].task
    chosen = set(methods if task.get("methods") is None else task["methods"]) - set(task["without"])
    usable = {name: facts for name, facts in methods.items() if facts.meant_for(kind, task["network"]) and name in chosen}
    if number == 3:
        usable = {method: facts for method, facts in usable.items() if method == "fgp" or facts.paper_name in prints}
    budgets = [budget for budget in dict.fromkeys([*task["k"], *task["budgets"]]) if number != 3 or budget in prints]
    dense = Row("", "dense", "dense", "unpruned", "—", printed=prints.get(paper.DENSE))
    rows = [_measured(cells, name, config, dense, "")]
    for method, facts in usable.items():
        if facts.kind == "architecture":
            row = Row("", method, _label(facts), "unpruned", "other architecture", printed=prints.get(facts.paper_name))
            rows.append(_measured(cells, name, config, replace(row, notes=_about(method, facts, task)), ""))
    for budget in budgets:
        wanted = _budget_rows(budget, task, usable, prints)
        rows += _mark_best([_measured(cells, name, config, row, reference) for row, reference in wanted])
    for method, share in task["at_printed"].items():
        facts = usable.get(method)
        if facts and (facts.paper_name in prints or not prints):
            selection, way = _at(share, task, methods.get(facts.plan_of, facts).kind)
            row = Row(OWN, method, _label(facts), selection, f"its printed MACs, {way}")
            row = replace(row, printed=prints.get(facts.paper_name), notes=_about(method, facts, task))
            rows.append(_measured(cells, name, config, row, _at(share, task)[0]))
    rows += _printed_only(prints, rows, usable)
    title = f"{task['dataset']}, {task['network']}" + (f" at width {task['width']:g}" if task["width"] != 1 else "")
    facts = {"task": name, "dataset": task["dataset"], "network": task["network"], "width": task["width"]}
    facts["backbone"] = where["backbone"] if where else None
    return Block(facts, title, _remark(task, config, where), METRICS[kind], tuple(rows))


def _budget_rows(
    budget: str, task: Mapping, methods: Mapping[str, Method], prints: Mapping[str, paper.PrintedRow]
) -> Iterator[tuple[Row, str]]:
    """Yield the rows of one budget, each with the selection of the FGP row that it is compared with ("" for none)."""
    if budget in task["k"] and "fgp" in methods:
        k = task["k"][budget]
        row = Row(
            budget, "fgp", methods["fgp"].label, f"cumulative-{k:.2f}", f"as defined, k {k:.2f}", printed=prints.get(budget)
        )
        yield row, ""
    if budget in task["budgets"]:
        share = task["budgets"][budget]
        for method, facts in methods.items():
            if facts.kind == "architecture":
                continue
            selection, way = _at(share, task, methods.get(facts.plan_of, facts).kind)
            row = Row(budget, method, _label(facts), selection, f"equal MACs, {way}", notes=_about(method, facts, task))
            fgp = method == "fgp"
            yield replace(row, printed=prints.get(budget) if fgp else None), "" if fgp else _at(share, task)[0]


def _at(share: float, task: Mapping, kind: str = "criterion") -> tuple[str, str]:
    """Return the selection at a share of the MACs of methods of a kind, by default FGP's, and the same in words."""
    selection = equal_macs(share, task.get("round_to"), kind)
    multiple = parse(selection).multiple
    return selection, f"{100 * share:.2f} %" + (f", multiples of {multiple}" if multiple > 1 else "")


def _label(facts: Method) -> str:
    return f"{facts.label} (approx.)" if facts.approximate else facts.label


def _about(method: str, facts: Method, task: Mapping) -> dict[str, tuple[str, ...]]:
    """Return the footnotes to a method's name: what was completed by us, and what it trains besides what every method does."""
    notes = [f"approx.: {facts.approximate}"] if facts.approximate else []
    recipe = task["stage_recipes"].get(method, task["finetune" if facts.start == "dense" else "recipe"])
    start = "on from the dense network" if facts.start == "dense" else "from random weights"
    own = {
        "sparse-training": f"Trains {start} (recipe {recipe}) before channels are selected; then fine-tuned like all.",
        "gradual": f"Prunes while it trains {start} (recipe {recipe}); then fine-tuned like all.",
        "architecture": f"Another architecture, trained from random weights (recipe {recipe}); nothing is pruned.",
    }
    notes += [own[facts.kind]] if facts.kind in own else []
    return {"label": tuple(notes)} if notes else {}


def _measured(cells: Cells, task: str, config: Mapping, row: Row, fgp: str) -> Row:
    """Fill in the numbers of a row; `fgp` is the selection of the FGP row to compare with, or ""."""

    def column(name: str) -> dict[int, float]:
        return cells.values(task, row.method, row.selection, name)

    latency = sorted({name for name in cells.columns if name.startswith("latency_b") and not name.endswith(("q1_ms", "q3_ms"))})
    values = {name: estimate(column(name).values()) for name in (*_COLUMNS, *latency)}
    after = column("after_percent")
    if row.method != "dense":
        values["minus_dense_points"] = paired(after, cells.values(task, "dense", "unpruned", "after_percent"))
    if fgp:
        values["minus_fgp_points"] = paired(after, cells.values(task, "fgp", fgp, "after_percent"))
    seeds = seeds_of(config, task)
    notes = dict(row.notes)
    if not after:
        notes["after"] = (f"{NOT_THERE}.",)
    elif absent := sorted(set(seeds) - after.keys()):
        notes["n"] = (f"seed {', '.join(map(str, absent))} {NOT_THERE}.",)
    for name in ("minus_dense_points", "minus_fgp_points"):
        if after and name in values and (pairs := values[name].n if values[name] else 0) < len(after):
            notes[name] = (f"over {pairs} of {len(after)} seeds; what the others are compared with is {NOT_THERE}.",)
    remaining = values["macs_remaining_percent"]
    if remaining and row.selection.startswith(_EQUAL):
        share = parse(row.selection).value
        if abs(remaining.mean / 100 - share) > TOLERANCE * share:
            notes["macs"] = (f"Misses its MACs by more than {100 * TOLERANCE:g} %: no selection came closer.",)
    return replace(row, n=len(after), expected=len(seeds), values=values, notes=notes)


def _mark_best(rows: Sequence[Row]) -> list[Row]:
    """Mark the best of the rows at the same MACs; a row that lacks seeds does not compete."""
    complete = [row for row in rows if row.selection.startswith(_EQUAL) and row.n and row.n >= row.expected]
    best = max((row.values["after_percent"].mean for row in complete), default=None)
    return [replace(row, best=row in complete and len(complete) > 1 and row.values["after_percent"].mean == best) for row in rows]


def _printed_only(prints: Mapping[str, paper.PrintedRow], rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Row]:
    shown = {row.printed.method for row in rows if row.printed}
    run = {facts.paper_name for facts in methods.values()}
    elsewhere = "Printed row of a method that is run here at the budgets above only, not at its printed MACs."
    printed = "Printed in the paper, not run here."
    return [
        Row("", "", name, "", "—", printed=row, notes={"label": (elsewhere if name in run else printed,)})
        for name, row in prints.items()
        if name not in shown
    ]


def _remark(task: Mapping, config: Mapping, where: Mapping | None) -> str:
    """Say how a task differs from the experiment whose printed numbers stand beside it; "" where it does not."""
    if not where:
        return ""
    name, source, size = paper.DATA_SETS[where["column"]]
    dataset = config["datasets"][task["dataset"]]
    ours, theirs = [], []
    if dataset["source"] != source:
        theirs.append(name)
        ours.append(f"{task['dataset']} (source {dataset['source']})")
    else:
        cut = [key for key in ("classes", "train_limit", "test_limit") if dataset.get(key)]
        sides = dataset.get("size") or size
        sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        if cut or sides != size:
            theirs.append(f"all of {name} at {size[0]}x{size[1]} pixels")
            ours.append(", ".join([*(f"{key} {dataset[key]}" for key in cut), f"{sides[0]}x{sides[1]} pixels"]))
    network = paper.NETWORKS[where["table"], where["backbone"]]
    if (task["network"], task["width"]) != (network, 1):
        theirs.append(f"{network} at full width")
        ours.append(f"{task['network']} at width {task['width']:g}")
    if not theirs:
        return ""
    return (
        f"The printed numbers are of another experiment ({'; '.join(theirs)}) than ours ({'; '.join(ours)}): "
        "only the pattern can be compared, not the numbers."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fgp_workflow.tables", description=__doc__)
    parser.add_argument("--cells", required=True, metavar="FILE", help="cells.csv")
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's configuration")
    parser.add_argument("--table", required=True, type=int, choices=sorted(TITLES))
    parser.add_argument("--out-dir", required=True, metavar="FOLDER", help="gets table<N>.csv, table<N>.md and table<N>.tex")
    parser.add_argument(
        "--paper", default=paper.FILE, metavar="FILE", help="the printed numbers (default: config/printed/tables.yaml)"
    )
    args = parser.parse_args(argv)
    import baselines
    from fgp_workflow import table_formats

    def make() -> None:
        config = read_config(args.config)
        methods = {name: baselines.get(name).METHOD for name in config["methods"]}
        table = build(args.table, collect.read(args.cells), config, methods, read_yaml(args.paper))
        table_formats.write(table, Path(args.out_dir))

    return exit_status("tables", make)


if __name__ == "__main__":
    sys.exit(main())
