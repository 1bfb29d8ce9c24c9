"""What a configuration asks for: tasks, data sets, and cells (task, seed, method, selection)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType

import baselines
from fgp.methods import Method
from fgp.models.names import NETWORKS
from fgp_workflow.config import Config, Dataset, Figure4, Task
from fgp_workflow.kinds import KINDS, Kind

DENSE = ("dense", "unpruned")


@cache
def module(method: str) -> ModuleType:
    """Return the module of a method."""
    return baselines.get(method)


def facts(method: str) -> Method:
    """Return what a method declares about itself."""
    return module(method).METHOD


def kind(method: str) -> Kind:
    """Return what the kind of a method means to the workflow."""
    return KINDS[facts(method).kind]


def cumulative(k: float) -> str:
    """Return the selection of FGP as its text defines it: the smallest set of channels that holds the share k of the scores."""
    return f"cumulative-{k:.2f}"


def count(k: float) -> str:
    """Return the selection of FGP as its Equation 11 defines it: the share k of the channels."""
    return f"count-{k:.2f}"


def as_defined(k: float) -> tuple[str, str]:
    """Return both readings of FGP "as defined" at a k."""
    return cumulative(k), count(k)


def equal_macs(share: float, task: Task, method: str) -> str:
    """Return the selection at a share of the MACs: `round_to` holds for the method whose plan decides, unless it is gradual."""
    rounded = task.round_to and kind(facts(method).plan_of or method).rounds
    return f"macs-{share:.4f}" + (f"-x{task.round_to}" if rounded else "")


def own_recipe(task: Task, method: str) -> str:
    """Return the recipe of a method's own training on a task."""
    return task.stage_recipes.get(method, task.finetune if facts(method).start == "dense" else task.recipe)


def figure4_ways(section: Figure4) -> dict[str, str]:
    """Return the selections that Figure 4 compares with their labels, as in the paper."""
    k, share, of = section.k, section.share, section.of
    percent, pair = f"{100 * share:.0f} %", f"{100 * share:.0f}/{100 * of:.0f} Rand"
    return {
        cumulative(k): f"Cumul. k {k:.2f}",
        f"peak-{share:.2f}": f"Peak {percent}",
        f"peak-rand-{share:.2f}-of-{of:.2f}": f"Peak {pair}",
        f"rand-{share:.2f}": f"Rand {percent}",
        f"bottom-rand-{share:.2f}-of-{of:.2f}": f"Bot {pair}",
        f"bottom-{share:.2f}": f"Bot {percent}",
    }


@dataclass(frozen=True)
class Cell:
    """One network that is trained or pruned, fine-tuned and measured, for every seed."""

    task: str
    method: str
    selection: str

    @property
    def path(self) -> str:
        """The cell's folder below `<task>/seed<S>/`."""
        return f"{self.method}/{self.selection}"


@dataclass(frozen=True)
class Experiment:
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
        """Every cell once, dense ones first in each task."""
        wanted = [Cell(task, *DENSE) for task in self.tasks]
        wanted += [*self._table_cells(), *self._figure_cells()]
        return sorted(dict.fromkeys(wanted), key=lambda cell: (cell.task, cell.method != DENSE[0], cell.method, cell.selection))

    def cells_of(self, task: str) -> list[Cell]:
        """The cells of one task, the dense one first."""
        return [cell for cell in self.cells if cell.task == task]

    def seeds_of(self, task: str) -> tuple[int, ...]:
        """The seeds that a task, of the class sweep too, runs with."""
        return self.tasks[task].seeds or self.config.seeds

    def methods_of(self, task: str) -> list[str]:
        """The methods that run on a task of the configuration."""
        return self.config.methods_of(task)

    def methods_through(self, rule: str) -> list[str]:
        """The methods of the configuration that a rule of the suite serves; not those that bring a rule of their own for it."""
        return [method for method in self.config.methods if rule in kind(method).rules and facts(method).own_rule != rule]

    def network_of(self, task: str, method: str) -> str:
        """The network of a cell: the task's, or the one that an architecture method trains in place of it."""
        network = self.tasks[task].network
        return network if method == DENSE[0] else facts(method).networks.get(network, network)

    @property
    def tables(self) -> list[int]:
        """Numbers of the tables that the tasks fill: 1 classification, 2 segmentation, 3 for `table3_task`."""
        kinds = {NETWORKS[task.network].task for task in self.config.tasks.values()}
        wanted = {1: "classification" in kinds, 2: "segmentation" in kinds, 3: self.table3_task is not None}
        return [number for number, filled in wanted.items() if filled]

    @property
    def table3_task(self) -> str | None:
        """The task beside the paper's Table 3: a VGG-16 that stands beside its Table 1, CIFAR-10 first; None if there is none."""
        printed = {name: task.paper for name, task in self.config.tasks.items() if task.network == "vgg16" and task.paper}
        return min(printed, key=lambda name: printed[name].column != "acc_cifar10", default=None)

    @property
    def figures(self) -> list[str]:
        """The figures to draw: "1", "3a", "3b", "4"."""
        return [name.removeprefix("fig") for name, section in self.config.figures if section]

    @property
    def figure1_selection(self) -> str:
        """The plan whose kept channels Figure 1 marks: FGP as defined, at the largest k of the task."""
        return cumulative(max(self.config.tasks[self.config.figures.fig1.task].k.values()))

    def _sweep(self) -> Iterator[tuple[str, int]]:
        if sweep := self.config.figures.fig3b:
            for classes in sweep.classes:
                yield sweep.task, classes

    def _table_cells(self) -> Iterator[Cell]:
        for name, task in self.config.tasks.items():
            for method in self.methods_of(name):
                if not kind(method).prunes:
                    yield Cell(name, method, DENSE[1])
                    continue
                if method == "fgp":
                    yield from (Cell(name, method, selection) for k in task.k.values() for selection in as_defined(k))
                shares = [*task.budgets.values(), *(share for key, share in task.at_printed.items() if key == method)]
                yield from (Cell(name, method, equal_macs(share, task, method)) for share in shares)

    def _figure_cells(self) -> Iterator[Cell]:
        figures = self.config.figures
        if figures.fig1:
            yield Cell(figures.fig1.task, "fgp", self.figure1_selection)
        if figures.fig3a:
            yield from (Cell(figures.fig3a.task, "fgp", cumulative(k)) for k in figures.fig3a.k)
        for task, classes in self._sweep():
            yield Cell(f"{task}-c{classes}", "fgp", cumulative(figures.fig3b.k))
        if figures.fig4:
            yield from (Cell(task, "fgp", way) for task in figures.fig4.tasks for way in figure4_ways(figures.fig4))
