"""The key of every stage: what its result depends on, so that the same key means the same result.

A key has two halves. The first is a hash of the stage's settings, the second of its code (`fgp.codehash`); each includes that
half of the keys of the stages whose results it reads. Paths, threads and GPU slots have no part in it. The rules pass a key as a
parameter, so that Snakemake runs a stage again when it changes, and in $FGP_KEY to the stage, which writes it into its result.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fgp import codehash, provenance
from fgp.data.listing import listing
from fgp.data.preparing import SOURCES
from fgp.errors import FgpError
from fgp.models.names import NETWORKS
from fgp_workflow.experiment import DENSE, Experiment, facts, kind, module
from fgp_workflow.settings import Settings

_FOLDERS = "fgp.data.folders"
_WRITTEN_TOGETHER = {"model.safetensors": "metrics.json", "metrics.json": "model.safetensors"}
_READERS = frozenset({_FOLDERS, *(read.__module__ for read in SOURCES.values())})


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of the way to a result.

    Attributes:
        name: the subcommand of `fgp` that runs it.
        settings: what the configuration sets, as words.
        modules: the modules that it runs; what they import counts too.
        inputs: the stages whose results it reads.
        but: modules that do not count: alternatives that this stage leaves alone.
        recorded: {hash of settings: key} of results that stay though other code made them.
    """

    name: str
    settings: str
    modules: tuple[str, ...]
    inputs: tuple["Stage", ...] = ()
    but: frozenset[str] = frozenset()
    recorded: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The two halves, joined by a hyphen."""
        earlier = [halves(stage.key) for stage in self.inputs]
        settings = _hash(self.name, self.settings, *(settings for settings, _ in earlier))
        if settings in self.recorded:
            return self.recorded[settings]
        code = [codehash.of(*self.modules, but=self.but)] if self.modules else []
        return f"{settings}-{_hash(*code, *(code for _, code in earlier))}"

    def way(self) -> list["Stage"]:
        """Return the stages that lead to its result, each once, the first first and itself last."""
        found = {stage.key: stage for earlier in self.inputs for stage in earlier.way()}
        return [*found.values(), self]


class Keys:
    """The stages of one experiment; `str` and `int` seeds are the same.

    Args:
        experiment: what is asked for.
        recorded: what `recorded` returns, where results of other code are to stay (`accept_code`): their stages have the keys
            that stand in the results, so that nothing is run again for the code's sake, and what follows from them tells of it.
    """

    def __init__(self, experiment: Experiment, recorded: Mapping[str, str] | None = None) -> None:
        self.experiment, self.settings = experiment, Settings(experiment)
        self._recorded = recorded or {}
        self._made: dict[tuple, Stage] = {}

    def data(self, dataset: str) -> Stage:
        """The preparation of a data set; the files in the data root count by name, size and time."""
        section = self.experiment.datasets[dataset]
        root = self.experiment.config.data_root or os.environ.get("FGP_DATA")
        reader = SOURCES[section.source].__module__ if section.source in SOURCES else _FOLDERS
        settings = f"{_hash(json.dumps(listing(section.source, root)))} {self.settings.data(dataset)}"
        return self._stage("data", settings, ("fgp.cli.data", reader), (), _READERS)

    def budgets(self, task: str) -> Stage:
        """What a task's network can be pruned to; not its code, or an edit of the surgery would train anew what waits."""
        return self._stage("budgets", self.settings.budgets(task), (), (self._data(task),))

    def train(self, task: str, seed: int | str, method: str = DENSE[0]) -> Stage:
        """The training of the dense network, or of an architecture in its place."""
        modules = ("fgp.cli.train", self._network(task, method), *self._own("train", method))
        return self._stage("train", self._run(self.settings.train(task, method), seed), modules, (self._data(task),))

    def own_training(self, task: str, seed: int | str, method: str, selection: str = "sparse") -> Stage:
        """A method's own training."""
        start = [self.train(task, seed)] if facts(method).start == "dense" else []
        settings = self._run(self.settings.own_training(task, method, selection), seed)
        modules = ("fgp.cli.stage", _module(method), self._network(task))
        return self._stage("stage", settings, modules, (self._data(task), *start))

    def scored(self, task: str, seed: int | str, method: str) -> Stage:
        """The training of the network that a method scores: its own or the dense one."""
        own = kind(method).own_network
        return self.own_training(task, seed, method) if own else self.train(task, seed)

    def score(self, task: str, seed: int | str, method: str) -> Stage:
        """The scoring of a network's channels."""
        settings = self._run(self.settings.score(task, method), seed)
        modules = ("fgp.cli.score", _module(method), self._network(task))
        return self._stage("score", settings, modules, (self._data(task), self.scored(task, seed, method)))

    def prune(self, task: str, seed: int | str, method: str, selection: str) -> Stage:
        """The removal of channels: by scores, or at the end of a gradual training."""
        if "gradual" in kind(method).rules:
            return self.own_training(task, seed, method, selection)
        own = (_module(method),) if hasattr(module(method), "repair") else self._own("prune", method)
        settings = self._run(self.settings.prune(task, method, selection), seed)
        inputs = (self._data(task), self.scored(task, seed, method), self.score(task, seed, method))
        return self._stage("prune", settings, ("fgp.cli.prune", self._network(task), *own), inputs)

    def cell(self, task: str, seed: int | str, method: str, selection: str) -> Stage:
        """The last training of a cell, which its metrics are of."""
        rule = DENSE[0] if method == DENSE[0] else kind(method).rules[-1]
        if rule in (DENSE[0], "train"):
            return self.train(task, seed, method)
        if rule == "scratch":
            settings = self.settings.scratch(task, method, selection)
            copied = self.prune(task, seed, facts(method).plan_of, selection)
            name, modules, inputs = "train", ("fgp.cli.train", self._network(task)), (self._data(task), copied)
        else:
            settings = self.settings.finetune(task, method, selection)
            own = (_module(method),) if hasattr(module(method), "finetuning") else ()
            name, modules = "finetune", ("fgp.cli.finetune", self._network(task), *own)
            inputs = (self._data(task), self.prune(task, seed, method, selection))
        return self._stage(name, self._run(settings, seed), (*modules, *self._own(rule, method)), inputs)

    def measure(self, task: str, seed: int | str) -> Stage:
        """The measurement of all networks of a task and seed."""
        cells = self.experiment.cells_of(task)
        networks = dict.fromkeys(self._network(task, cell.method) for cell in cells)
        made = tuple(self.cell(task, seed, cell.method, cell.selection) for cell in cells)
        settings = f"{self.settings.measure()} --device {self.experiment.config.device}"
        return self._stage("measure", settings, ("fgp.cli.measure", *networks), (self._data(task), *made))

    def results(self, *texts: str) -> str:
        """Return a hash of the keys of all cells and measurements, and of further texts."""
        experiment = self.experiment
        seeds = [(cell, seed) for cell in experiment.cells for seed in experiment.seeds_of(cell.task)]
        stages = [self.cell(cell.task, seed, cell.method, cell.selection) for cell, seed in seeds]
        stages += [self.measure(task, seed) for task in experiment.config.tasks for seed in experiment.seeds_of(task)]
        return _hash(*texts, *(stage.key for stage in stages))

    def code(self, *modules: str) -> str:
        """Return a hash of code that reads results: collection, tables, figures; readers of data sets have no part in it."""
        return codehash.of(*modules, but=_READERS)

    def figure1(self, task: str) -> str:
        """Return a hash of the code that draws Figure 1."""
        return self.code("fgp_workflow.figures", self._network(task))

    def labels(self) -> str:
        """Return a hash of all methods' files, for the labels that tables take from them."""
        return self.code("fgp_workflow.tables", *map(_module, self.experiment.config.methods))

    def _stage(self, *entries: object) -> Stage:
        """Return one object for equal stages, whose key is then computed once."""
        if entries not in self._made:
            self._made[entries] = Stage(*entries, recorded=self._recorded)
        return self._made[entries]

    def _run(self, settings: str, seed: int | str) -> str:
        return f"{settings} --seed {seed} --device {self.experiment.config.device}"

    def _data(self, task: str) -> Stage:
        return self.data(self.experiment.tasks[task].dataset)

    def _network(self, task: str, method: str = DENSE[0]) -> str:
        return f"fgp.models.{NETWORKS[self.experiment.network_of(task, method)].module}"

    def _own(self, rule: str, method: str) -> tuple[str, ...]:
        """The method's file, where a rule of its own stands in for this one."""
        return (_module(method),) if method != DENSE[0] and facts(method).own_rule == rule else ()


def recorded(root: str) -> dict[str, str]:
    """Return {hash of settings: key} of the results below `results/<run>`.

    What cannot be read is left out, and so is a training of which the network or the metrics alone are there: it will be run
    again, by the present code.
    """
    found = {}
    for pattern in ("data/*.safetensors", "*/budgets.json", "*/*/latency.json", "*/*/*/*.safetensors", "*/*/*/*/*.*"):
        for path in Path(root).glob(pattern):
            twin = _WRITTEN_TOGETHER.get(path.name, path.name)
            if path.suffix in (".json", ".safetensors") and path.name != "plan.json" and path.with_name(twin).exists():
                with contextlib.suppress(FgpError):
                    key = provenance.read(path).get("key")
                    if isinstance(key, str):
                        found[halves(key)[0]] = key
    return found


def halves(key: str) -> tuple[str, str]:
    """Return the hash of the settings and that of the code."""
    settings, _, code = key.partition("-")
    return settings, code


def _module(method: str) -> str:
    return f"baselines.{method.replace('-', '_')}"


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
