"""The code of every job: hashes over the modules that it runs, for its rule and for the proof of what it wrote."""

from fgp.data.preparing import SOURCES
from fgp.models.names import NETWORKS
from fgp_workflow import codehash
from fgp_workflow.commands import method_module
from fgp_workflow.grid import Batch, Grid, Scoring, facts, module

_FOLDERS = "fgp.data.folders"
_READERS = frozenset({_FOLDERS, *(read.__module__ for read in SOURCES.values())})
_SUBCOMMANDS = {"architecture": ("train",), "scratch": ("prune", "train"), "gradual": ("prune", "finetune")}


class Codes:
    """The hashes of a grid's jobs, by the stage."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def data(self, dataset: str) -> str:
        """Code of `fgp data`: with the reader of the data set's source, without the others."""
        source = self.grid.datasets[dataset].source
        reader = SOURCES[source].__module__ if source in SOURCES else _FOLDERS
        return codehash.of("fgp.cli.data", reader, but=_READERS)

    def train(self, task: str) -> str:
        """Code of the dense network's training."""
        return codehash.of("fgp.cli.train", self.network(task))

    def stage(self, task: str, method: str) -> str:
        """Code of a method's own training."""
        return codehash.of("fgp.cli.stage", method_module(method), self.network(task))

    def score(self, scoring: Scoring) -> str:
        """Code of the methods that score in one process."""
        return codehash.of("fgp.cli.score", self.network(scoring.task), *map(method_module, scoring.methods))

    def cells(self, batch: Batch) -> str:
        """Code of a batch: its subcommands, its networks, and the methods that take part in them."""
        words = _SUBCOMMANDS.get(batch.kind, ("plan", "prune", "finetune"))
        active = [name for name in batch.methods if any(hasattr(module(name), part) for part in ("repair", "finetuning"))]
        networks = {self.network(batch.task, method) for method in batch.methods}
        return codehash.of(*(f"fgp.cli.{word}" for word in words), *sorted(networks), *map(method_module, active))

    def latency(self, task: str) -> str:
        """Code of the measurement of all networks of a task."""
        networks = {self.network(task), *(self.network(task, cell.method) for cell in self.grid.cells_of(task))}
        return codehash.of("fgp.cli.measure", *sorted(networks))

    def reading(self, *modules: str) -> str:
        """Code of modules that read results; the readers of data sets have no part in it."""
        return codehash.of(*modules, but=_READERS)

    def network(self, task: str, method: str | None = None) -> str:
        """Return the module of a task's network, or of the architecture that a method trains in place of it."""
        name = self.grid.tasks[task].network
        if method and facts(method).kind == "architecture":
            name = facts(method).networks[name]
        return f"fgp.models.{NETWORKS[name].module}"
