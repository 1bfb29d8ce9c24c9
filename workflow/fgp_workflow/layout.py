"""The layout of `results/<run>/`: every path as a pattern with the wildcards of the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgp_workflow.experiment import Experiment


@dataclass(frozen=True)
class Layout:
    """Paths below `root`, `results/<run>`, with `{dataset}`, `{task}`, `{seed}`, `{method}`, `{selection}` to be filled in."""

    root: str

    def run(self, *names: str) -> str:
        """A file of the whole run: `cells.csv`, `config.yaml`, `tables/table1.md`, ..."""
        return "/".join((self.root, *names))

    @property
    def data(self) -> str:
        """Prepared data."""
        return self.run("data", "{dataset}.safetensors")

    @property
    def budgets(self) -> str:
        """Which budgets a task's network can reach."""
        return self.run("{task}", "budgets.json")

    def of_seed(self, *names: str) -> str:
        """A file of one task and seed: `latency.json`."""
        return self.run("{task}", "seed{seed}", *names)

    def dense(self, name: str = "model.safetensors") -> str:
        """A file of the dense network, a cell like any other."""
        return self.of_seed("dense", "unpruned", name)

    def method(self, *names: str) -> str:
        """A file that all cells of a method share: `scores.safetensors`, `sparse/model.safetensors`."""
        return self.of_seed("{method}", *names)

    def cell(self, name: str) -> str:
        """A file of one cell: `plan.json`, `pruned.safetensors`, `model.safetensors`, `curve.csv`, `metrics.json`."""
        return self.of_seed("{method}", "{selection}", name)

    def metrics(self, experiment: Experiment) -> list[str]:
        """The metrics files of all cells."""
        return [
            self.cell("metrics.json").format(task=cell.task, seed=seed, method=cell.method, selection=cell.selection)
            for cell in experiment.cells
            for seed in experiment.seeds_of(cell.task)
        ]

    def latencies(self, experiment: Experiment) -> list[str]:
        """The latency files of all tasks of the configuration, without those of the class sweep."""
        tasks = experiment.config.tasks
        return [self.of_seed("latency.json").format(task=task, seed=seed) for task in tasks for seed in experiment.seeds_of(task)]
