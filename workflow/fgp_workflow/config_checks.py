"""What the parts of a configuration ask of each other, and names that a run needs for itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import baselines
from fgp import options
from fgp.data.preparing import KNOWN, SOURCES
from fgp.errors import FgpError
from fgp.methods import OWN_TRAINING, Method
from fgp.models.names import NETWORKS

if TYPE_CHECKING:
    from fgp_workflow.config import Config, Dataset, Task

RESERVED = ("partial", "data", "logs", "benchmarks", "tables", "figures", "cells.csv", "config.yaml", "report.html")
"""What else lies in `results/<run>/`, where every task has its folder; `partial_tables` deletes `partial`."""


def problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with a configuration, as "key: what"; after the first one, the others may be its consequences."""
    yield from _unknown_names(config)
    yield from _impossible_names(config)
    for name, dataset in config.datasets.items():
        yield from _wrong_data(config, name, dataset)
    networks = [(NETWORKS[task.network].task, task.network) for task in config.tasks.values()]
    for method in config.methods:
        facts = baselines.get(method).METHOD
        if not any(facts.meant_for(*network) for network in networks):
            yield f"methods: {method} is {_meant_for(facts)}, and no task is of that kind; add one or drop it"
    for name, task in config.tasks.items():
        yield from _wrong_task(config, name, task)
    yield from _wrong_figures(config)


def too_many_threads(config: Config, cores: int) -> str | None:
    """Return what to say where jobs ask for more threads than the machine has cores, which Snakemake cuts down without a word."""
    for key, threads in (("threads", config.threads), ("latency.threads", config.latency.threads)):
        if threads > cores:
            return f"{key}: {threads} threads a job, but this machine has {cores} cores; give at most {cores}"
    return None


def closest(word: str, legal: Iterable[str]) -> str:
    """Return advice for an unknown word: the legal ones nearest to it, or all."""
    legal = list(legal)
    close = difflib.get_close_matches(word, legal, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"legal: {', '.join(legal)}"


def _unknown_names(config: Config) -> Iterator[str]:
    for key, name, legal in _references(config):
        if name not in legal:
            yield f"{key}: unknown {name!r}; {closest(name, legal)}"


def _references(config: Config) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield (key, name, legal names) for every name that must exist elsewhere."""
    methods = baselines.discover()
    for task in config.only or ():
        yield "only", task, config.tasks
    for method in config.methods:
        yield "methods", method, methods
    for name, dataset in config.datasets.items():
        if not dataset.source.startswith("folder:"):
            yield f"datasets.{name}.source", dataset.source, [*SOURCES, "folder:<name>"]
    for name, task in config.tasks.items():
        yield f"tasks.{name}.dataset", task.dataset, config.datasets
        yield f"tasks.{name}.network", task.network, NETWORKS
        for key, recipe in _recipes(task):
            yield f"tasks.{name}.{key}", recipe, config.recipes
        for key in ("methods", "without", "at_printed", "options", "stage_recipes"):
            for method in getattr(task, key) or ():
                yield f"tasks.{name}.{key}", method, methods
        for method in config.methods_of(name):
            if source := methods[method].METHOD.plan_of:
                yield f"tasks.{name}: {method} needs the plans of", source, config.methods_of(name)
    for figure in ("fig1", "fig3a", "fig3b"):
        if section := getattr(config.figures, figure):
            yield f"figures.{figure}.task", section.task, config.tasks
    if config.figures.fig4:
        for task in config.figures.fig4.tasks:
            yield "figures.fig4.tasks", task, config.tasks


def _recipes(task: Task) -> Iterator[tuple[str, str]]:
    yield "recipe", task.recipe
    yield "finetune", task.finetune
    for method, recipe in task.stage_recipes.items():
        yield f"stage_recipes.{method}", recipe


def _sweep(config: Config, dataset: str) -> tuple[int, ...]:
    """Return the numbers of classes to which Figure 3b cuts a data set."""
    sweep = config.figures.fig3b
    return sweep.classes if sweep and config.tasks[sweep.task].dataset == dataset else ()


def _impossible_names(config: Config) -> Iterator[str]:
    sweep = config.figures.fig3b
    swept = {"tasks": sweep.task, "datasets": config.tasks[sweep.task].dataset} if sweep else {}
    for key in ("tasks", "datasets"):
        taken = dict.fromkeys(RESERVED, "a run needs this name for itself")
        if sweep:
            taken |= {f"{swept[key]}-c{n}".casefold(): f"figures.fig3b needs this name for {n} classes" for n in sweep.classes}
        for name in getattr(config, key):
            if reason := taken.get(name.casefold()):
                yield f"{key}.{name}: {reason}; rename it"
            taken[name.casefold()] = f"some file systems do not tell it from {name}"


def _wrong_data(config: Config, name: str, dataset: Dataset) -> Iterator[str]:
    key, source = f"datasets.{name}", dataset.source
    task, there = KNOWN.get(source, ("classification", None))
    if source.startswith("folder:") and (not (folder := source[7:]) or folder in (".", "..") or set(folder) & {"/", "\\"}):
        yield f"{key}.source: {source!r}; after folder: comes the name of a folder or zip directly below the data root"
    if dataset.classes and task == "segmentation" and source != "scenes":
        yield f"{key}.classes: only a classification set and scenes can be cut down to their first classes; remove it"
        return
    if dataset.classes and there and dataset.classes > there:
        yield f"{key}.classes: {dataset.classes}, but {source} has {there}; give 2 to {there}"
    for classes in _sweep(config, name):
        if there and classes > there:
            yield f"figures.fig3b.classes: {classes}, but {source} has {there}; give 2 to {there}"
    if task == "classification":
        most = max(dataset.classes or there or 0, *_sweep(config, name), 0)
        for limit in ("train_limit", "test_limit"):
            if (images := getattr(dataset, limit)) and images < most:
                yield f"{key}.{limit}: {images} images, but {most} classes; give at least {most}"
        used = any(section.dataset == name for section in config.tasks.values())
        if used and config.scoring.images and config.scoring.images < most:
            yield f"scoring.images: {config.scoring.images}, but {name} has {most} classes; give at least {most}"


def _wrong_task(config: Config, name: str, task: Task) -> Iterator[str]:
    network = NETWORKS[task.network]
    given = KNOWN.get(config.datasets[task.dataset].source, ("classification", None))[0]
    if network.task != given:
        yield f"tasks.{name}: {task.network} is a {network.task} network, {task.dataset} a {given} data set"
    if task.width != 1 and not network.scalable:
        yield f"tasks.{name}.width: {task.width}, but {task.network} has a fixed width; use 1 or another network"
    for key, recipe in _recipes(task):
        try:
            config.recipes[recipe].check_task(network.task)
        except FgpError as error:
            yield f"tasks.{name}.{key}: recipes.{recipe}: {str(error).removeprefix('recipe: ')}"
    for method, given in task.options.items():
        try:
            options.check(method, baselines.get(method), given, f"tasks.{name}.options.{method}.")
        except FgpError as error:
            yield str(error)
    for method in (*(task.methods or ()), *task.at_printed):
        facts = baselines.get(method).METHOD
        if not facts.meant_for(network.task, task.network):
            yield f"tasks.{name}: {method} is {_meant_for(facts)}, not for {task.network}; leave it out of this task"
    for method in task.stage_recipes:
        kind = baselines.get(method).METHOD.kind
        if kind not in OWN_TRAINING:
            yield f"tasks.{name}.stage_recipes: {method} (kind {kind}) has no own training; remove it"
    if task.round_to and not (task.budgets or task.at_printed):
        yield f"tasks.{name}.round_to: there are no `budgets` or `at_printed` to round; remove it"
    if unknown := set(task.seeds or ()) - set(config.seeds):
        yield f"tasks.{name}.seeds: {min(unknown)} is not among `seeds`; add it there"


def _wrong_figures(config: Config) -> Iterator[str]:
    if fig1 := config.figures.fig1:
        task = config.tasks[fig1.task]
        dataset = config.datasets[task.dataset]
        there = dataset.classes or KNOWN.get(dataset.source, ("", None))[1]
        if not task.k:
            yield f"figures.fig1.task: {fig1.task} has no `k`; give it one or drop fig1"
        if there and fig1.classes > there:
            yield f"figures.fig1.classes: {fig1.classes}, but {task.dataset} has {there}; give 1 to {there}"
    fig3b = config.figures.fig3b
    if fig3b and NETWORKS[config.tasks[fig3b.task].network].task != "classification":
        yield f"figures.fig3b.task: {fig3b.task} is no classification task"


def _meant_for(facts: Method) -> str:
    where = f" with {', '.join(facts.networks)}" if facts.networks else ""
    return f"meant for {' and '.join(sorted(facts.tasks))}{where}"
