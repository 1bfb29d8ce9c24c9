"""The cells that a configuration asks for: (task, seed, method, selection)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby, islice
from types import ModuleType

import baselines
from fgp.methods import OWN_TRAINING, Method
from fgp_workflow.config import Config, Dataset, Task

DENSE = ("dense", "unpruned")
_PROCESSED_TOGETHER = ("criterion", *OWN_TRAINING)


@cache
def module(method: str) -> ModuleType:
    """Return the module of a method."""
    return baselines.get(method)


def facts(method: str) -> Method:
    """Return what a method declares about itself."""
    return module(method).METHOD


def equal_macs(share: float, round_to: int | None, kind: str) -> str:
    """Return the selection of cells at a share of the MACs, of methods of a kind (a scratch control: that of the plan it copies).

    Gradual methods prune single channels while they train, so that theirs is not rounded.
    """
    return f"macs-{share:.4f}" + (f"-x{round_to}" if round_to and kind != "gradual" else "")


def _list(methods: tuple[str, ...]) -> str:
    return methods[0] if len(methods) == 1 else f"{methods[0]} and {len(methods) - 1} more"


@dataclass(frozen=True)
class Cell:
    """One network that is pruned, fine-tuned and measured, for every seed."""

    task: str
    method: str
    selection: str

    @property
    def path(self) -> str:
        """The cell's folder below `<task>/seed<S>/`."""
        return f"{self.method}/{self.selection}"


@dataclass(frozen=True)
class Scoring:
    """Methods that score networks of one task in one process: criteria the dense one, others their own."""

    task: str
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for rules and logs, different for every scoring."""
        return f"{self.task}-{self.methods[0]}"

    @property
    def label(self) -> str:
        """What a reader of the progress sees."""
        return _list(self.methods)


@dataclass(frozen=True)
class Batch:
    """Cells of one task that share a process: of one method, or of methods of one kind that are fine-tuned alike."""

    cells: tuple[Cell, ...]

    @property
    def task(self) -> str:
        """The cells' task."""
        return self.cells[0].task

    @property
    def kind(self) -> str:
        """The kind of the cells' methods."""
        return facts(self.cells[0].method).kind

    @property
    def methods(self) -> tuple[str, ...]:
        """The cells' methods, each once."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def name(self) -> str:
        """A name for rules and logs, different for every batch."""
        return f"{self.task}-{self.cells[0].method}-{self.cells[0].selection}"

    @property
    def label(self) -> str:
        """What a reader of the progress sees."""
        number = f"{len(self.cells)} selections" if len(self.cells) > 1 else self.cells[0].selection
        return f"{_list(self.methods)} {number}"


@dataclass(frozen=True)
class Grid:
    """Everything a configuration asks for, tasks of the class sweep (Figure 3b) included."""

    config: Config

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """Data sets by name, those cut to fewer classes included."""
        datasets = dict(self.config.datasets)
        for task, classes in self._sweep():
            dataset = self.config.tasks[task].dataset
            datasets[f"{dataset}-c{classes}"] = datasets[dataset].model_copy(update={"classes": classes})
        return datasets

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Tasks by name, those of the class sweep included."""
        tasks = dict(self.config.tasks)
        for name, classes in self._sweep():
            task = tasks[name]
            tasks[f"{name}-c{classes}"] = task.model_copy(
                update={"dataset": f"{task.dataset}-c{classes}", "k": {}, "budgets": {}, "at_printed": {}, "paper": None}
            )
        return tasks

    @cached_property
    def cells(self) -> list[Cell]:
        """All pruned cells, each once, the ones of a task and method side by side."""
        wanted = [*self._table_cells(), *self._figure_cells()]
        return sorted(dict.fromkeys(wanted), key=lambda cell: (cell.task, cell.method, cell.selection))

    @property
    def tables(self) -> list[int]:
        """Numbers of the paper's tables that the tasks fill."""
        printed = [(task.paper.table, task.network) for task in self.config.tasks.values() if task.paper]
        wanted = {1: ("T1", None), 2: ("T2", None), 3: ("T1", "vgg16")}
        return [
            number
            for number, (table, network) in wanted.items()
            if any(table == of and network in (None, built) for of, built in printed)
        ]

    def cells_of(self, task: str) -> list[Cell]:
        """The pruned cells of one task."""
        return [cell for cell in self.cells if cell.task == task]

    def batches(self) -> Iterator[Batch]:
        """At most `cells_per_job` cells of one task that are processed alike: what one process does."""
        ordered = sorted(self.cells, key=self._together)
        for _, cells in groupby(ordered, key=self._together):
            while batch := tuple(islice(cells, self.config.cells_per_job)):
                yield Batch(batch)

    def scorings(self) -> Iterator[Scoring]:
        """At most `cells_per_job` methods of one kind that score networks of one task: what one process does."""
        for task in self.tasks:
            cells = sorted(self.cells_of(task), key=self._together)
            for _, alike in groupby(cells, key=self._together):
                names = iter(dict.fromkeys(cell.method for cell in alike if hasattr(module(cell.method), "score")))
                while methods := tuple(islice(names, self.config.cells_per_job)):
                    yield Scoring(task, methods)

    def methods_of_kind(self, kind: str) -> list[str]:
        """The methods of a kind that the configuration names."""
        return [method for method in self.config.methods if facts(method).kind == kind]

    @staticmethod
    def _together(cell: Cell) -> tuple[str, str]:
        kind = facts(cell.method).kind
        return cell.task, kind if kind in _PROCESSED_TOGETHER else cell.method

    def folders(self) -> list[str]:
        """The folder of every cell below `results/<run>/`, dense ones included, all seeds."""
        return [
            f"{task}/seed{seed}/{path}"
            for task in self.tasks
            for seed in self.seeds_of(task)
            for path in ["/".join(DENSE), *(cell.path for cell in self.cells_of(task))]
        ]

    def seeds_of(self, task: str) -> tuple[int, ...]:
        """The seeds that a task, of the class sweep too, runs with."""
        return self.tasks[task].seeds or self.config.seeds

    def _sweep(self) -> Iterator[tuple[str, int]]:
        if sweep := self.config.figures.fig3b:
            for classes in sweep.classes:
                yield sweep.task, classes

    def _table_cells(self) -> Iterator[Cell]:
        for name, task in self.config.tasks.items():
            for method in self.config.methods_of(name):
                if facts(method).kind == "architecture":
                    yield Cell(name, method, DENSE[1])
                    continue
                if method == "fgp":
                    yield from (Cell(name, method, f"cumulative-{k:.2f}") for k in task.k.values())
                shares = [*task.budgets.values(), *(share for key, share in task.at_printed.items() if key == method)]
                kind = facts(facts(method).plan_of or method).kind
                yield from (Cell(name, method, equal_macs(share, task.round_to, kind)) for share in shares)

    def _figure_cells(self) -> Iterator[Cell]:
        figures = self.config.figures
        if figures.fig1:
            yield Cell(figures.fig1.task, "fgp", self.figure1_selection)
        if figures.fig3a:
            yield from (Cell(figures.fig3a.task, "fgp", f"cumulative-{k:.2f}") for k in figures.fig3a.k)
        for task, classes in self._sweep():
            yield Cell(f"{task}-c{classes}", "fgp", f"cumulative-{figures.fig3b.k:.2f}")
        if figures.fig4:
            k, share, of = figures.fig4.k, figures.fig4.share, figures.fig4.of
            ways = [f"cumulative-{k:.2f}", f"peak-{share:.2f}", f"bottom-{share:.2f}", f"rand-{share:.2f}"]
            ways += [f"{end}-rand-{share:.2f}-of-{of:.2f}" for end in ("peak", "bottom")]
            yield from (Cell(task, "fgp", way) for task in figures.fig4.tasks for way in ways)

    @property
    def figure1_selection(self) -> str:
        """The plan whose kept channels Figure 1 marks: FGP as defined, at the largest k of the task."""
        return f"cumulative-{max(self.config.tasks[self.config.figures.fig1.task].k.values()):.2f}"
