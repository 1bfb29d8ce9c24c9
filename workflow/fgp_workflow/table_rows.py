"""Which rows a table has: the cells of a task by budget and method, and the rows that are only printed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fgp.selections import parse
from fgp_workflow import paper
from fgp_workflow.config import Task
from fgp_workflow.experiment import DENSE, Experiment, count, cumulative, equal_macs, facts, kind, own_recipe

OWN = "own"
_STARTS = {"random": "from random weights", "dense": "on from the dense network"}


@dataclass(frozen=True)
class Row:
    """One table row, without its numbers.

    Attributes:
        budget: "FGP*", "FGP+", ... ; "own" where a method is pruned to MACs of its own; "" for what is not pruned.
        method: file in `baselines/`, "dense", or "" for a row that is only printed.
        label: the method as shown.
        selection: as in the cell's path; "" for a row that is only printed.
        way: the selection as shown.
        share: the share of the dense network's MACs that the row is pruned to; None where it is not pruned to MACs.
        reference: selection of the FGP row at the same MACs, to compare with; "" for none.
        printed: the paper's row.
        notes: footnotes to the label.
    """

    budget: str
    method: str
    label: str
    selection: str
    way: str
    share: float | None = None
    reference: str = ""
    printed: paper.PrintedRow | None = None
    notes: tuple[str, ...] = ()

    @property
    def competes(self) -> bool:
        """Tell whether other rows of the same budget are pruned to the same MACs."""
        return self.share is not None and self.budget != OWN


@dataclass(frozen=True)
class _Task:
    """What the rows of one task are made from: its section, its methods, and the printed rows beside it by name."""

    section: Task
    methods: list[str]
    prints: Mapping[str, paper.PrintedRow] = field(default_factory=dict)


def rows_of(experiment: Experiment, name: str, prints: Mapping[str, paper.PrintedRow], printed_only: bool) -> list[Row]:
    """Return the rows of a task: dense network, other architectures, every budget, methods at MACs of their own, printed rows.

    Args:
        experiment: the configuration.
        name: the task.
        prints: the printed rows that stand beside it, by their method; {} for none.
        printed_only: leave out budgets and methods that are not printed, but for FGP.
    """
    section, methods = experiment.tasks[name], experiment.methods_of(name)
    budgets = list(dict.fromkeys([*section.k, *section.budgets]))
    if printed_only:
        methods = [method for method in methods if method == "fgp" or facts(method).paper_name in prints]
        budgets = [budget for budget in budgets if budget in prints]
    task = _Task(section, methods, prints)
    rows = [Row("", DENSE[0], DENSE[0], DENSE[1], "—", printed=prints.get(paper.DENSE))]
    rows += _architectures(task)
    rows += (row for budget in budgets for row in _at_budget(budget, task))
    rows += _at_own_macs(task)
    return rows + _not_run(task, rows)


def _architectures(task: _Task) -> Iterator[Row]:
    for method in task.methods:
        if not kind(method).prunes:
            printed = task.prints.get(facts(method).paper_name)
            yield Row("", method, _label(method), DENSE[1], "other architecture", printed=printed, notes=_notes(method, task))


def _at_budget(budget: str, task: _Task) -> Iterator[Row]:
    """Yield FGP as defined, in both readings, and every method at the budget's MACs."""
    printed = task.prints.get(budget)
    if budget in task.section.k and "fgp" in task.methods:
        k = task.section.k[budget]
        for selection, source, beside in ((cumulative(k), "Section 5.4", printed), (count(k), "Eq. 11", None)):
            yield Row(budget, "fgp", _label("fgp"), selection, f"as defined ({source}), k {k:.2f}", printed=beside)
    if budget in task.section.budgets:
        for method in task.methods:
            if kind(method).prunes:
                beside = printed if method == "fgp" else None
                yield _at_macs(budget, method, task.section.budgets[budget], "equal MACs", beside, task)


def _at_own_macs(task: _Task) -> Iterator[Row]:
    """Yield the rows of `at_printed`; where a table is printed, those that it prints."""
    for method, share in task.section.at_printed.items():
        printed = task.prints.get(facts(method).paper_name)
        if method in task.methods and kind(method).prunes and (printed or not task.prints):
            yield _at_macs(OWN, method, share, "its printed MACs" if printed else "MACs of its own", printed, task)


def _at_macs(budget: str, method: str, share: float, words: str, printed: paper.PrintedRow | None, task: _Task) -> Row:
    selection = equal_macs(share, task.section, method)
    multiple = parse(selection).multiple
    way = f"{words}, {100 * share:.2f} %" + (f", multiples of {multiple}" if multiple > 1 else "")
    reference = "" if method == "fgp" else equal_macs(share, task.section, "fgp")
    return Row(budget, method, _label(method), selection, way, share, reference, printed, _notes(method, task))


def _not_run(task: _Task, rows: list[Row]) -> list[Row]:
    """Return what the paper prints and no row shows."""
    shown = {row.printed.method for row in rows if row.printed}
    run = {facts(method).paper_name for method in task.methods}
    elsewhere = "Printed row of a method that is run here at the budgets above only, not at its printed MACs."
    absent = "Printed in the paper, not run here."
    return [
        Row("", "", name, "", "—", printed=printed, notes=(elsewhere if name in run else absent,))
        for name, printed in task.prints.items()
        if name not in shown
    ]


def _label(method: str) -> str:
    return f"{facts(method).label} (approx.)" if facts(method).approximate else facts(method).label


def _notes(method: str, task: _Task) -> tuple[str, ...]:
    """Return the footnotes to a method's name: what was completed by us, and what it trains besides what every method does."""
    about = facts(method)
    training = kind(method).note.format(start=_STARTS[about.start], recipe=own_recipe(task.section, method))
    return tuple(filter(None, (about.approximate and f"approx.: {about.approximate}", training)))
