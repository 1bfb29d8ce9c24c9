"""The proof that a result belongs to a configuration: what its provenance says of every stage is what the configuration asks for.

A cell's provenance chains the stages that led to it, from the prepared data on, each with command line and hash of its code.
"""

import os
from pathlib import Path

from fgp import provenance
from fgp.errors import FgpError
from fgp.methods import OWN_TRAINING
from fgp.models.names import NETWORKS
from fgp_workflow.codes import Codes
from fgp_workflow.commands import Commands
from fgp_workflow.grid import DENSE, Cell, Grid, facts, module

_OF_THE_DENSE_NETWORK = ("dense_macs", "dense_params", "channels")


class Proof:
    """Checks the cells of a configuration one after another; the dense network of a task and seed first."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self._commands, self._codes = grid, Commands(grid), Codes(grid)
        self._batches = {cell: batch for batch in grid.batches() for cell in batch.cells}
        self._scorings = {(scoring.task, method): scoring for scoring in grid.scorings() for method in scoring.methods}
        self._dense: dict[tuple[str, int], dict] = {}
        self._contents: dict[str, tuple[object, list]] = {}
        self._digests: dict[tuple[str, str, str], str] = {}

    def check_cell(self, path: str | os.PathLike, metrics: dict) -> None:
        """Check the content of a metrics file.

        Raises:
            FgpError: an entry is not what the configuration asks for; the message names file, entry, found and expected.
        """
        cell, seed = Cell(metrics["task"], metrics["method"], metrics["selection"]), metrics["seed"]
        if cell not in self._batches and (cell.task not in self.grid.tasks or (cell.method, cell.selection) != DENSE):
            raise _refusal(path, "task, method, selection", f"{cell.task} {cell.path}", "no such cell")
        for entry, expected in self._entries(cell).items():
            if metrics[entry] != expected:
                raise _refusal(path, entry, metrics[entry], expected)
        recorded = metrics["provenance"]
        stages = provenance.chain(recorded)
        _check_stages(path, stages, self.stages(cell, seed))
        self._check_content(path, metrics["dataset"], [stage["content"] for stage in stages if "content" in stage])
        dense = self._dense.setdefault((cell.task, seed), metrics) if cell.path == "/".join(DENSE) else None
        dense = dense or self._dense.get((cell.task, seed))
        if dense:
            _check_dense(path, metrics, stages, dense)
        self._digests[cell.task, str(seed), cell.path] = provenance.digest(recorded)

    def check_latency(self, path: str | os.PathLike, content: dict) -> None:
        """Check the content of a latency file, after the cells whose networks it measures.

        Raises:
            FgpError: it was measured by another command or code, or on other networks than those of the cells.
        """
        task, seed = Path(path).parts[-3], Path(path).parts[-2].removeprefix("seed")
        recorded = content["provenance"]
        expected = {self._commands.latency(task, seed): self._codes.latency(task)}
        _check_stages(path, provenance.chain(recorded | {"stages": []}), expected)
        networks = recorded.get("networks")
        for (of_task, of_seed, name), digest in self._digests.items():
            found = networks.get(name) if isinstance(networks, dict) else None
            if (of_task, of_seed) == (task, seed) and found != digest:
                raise _refusal(path, f"provenance: networks.{name}", found, f"{digest}, the network of that cell")

    def stages(self, cell: Cell, seed: int | str) -> dict[str, str]:
        """Return the command lines that lead to a cell, in order, each with the hash of its code."""
        task = cell.task
        made = {self._commands.data(self.grid.tasks[task].dataset): self._codes.data(self.grid.tasks[task].dataset)}
        dense = {self._commands.train(task, seed): self._codes.train(task)}
        if (cell.method, cell.selection) == DENSE:
            return made | dense
        about = facts(cell.method)
        own = dict.fromkeys(self._commands.cell(cell, seed), self._codes.cells(self._batches[cell]))
        if about.kind == "architecture":
            return made | own
        if about.kind not in OWN_TRAINING or about.start == "dense":
            made |= dense
        if about.kind == "scratch":
            *planned, _, _ = self.stages(Cell(task, about.plan_of, cell.selection), seed).items()
            return made | dict(planned) | own
        if about.kind in OWN_TRAINING:
            words = self._commands.own_stage(task, seed, cell.method, cell.selection if about.kind == "gradual" else "sparse")
            made[words] = self._codes.stage(task, cell.method)
        if hasattr(module(cell.method), "score"):
            scoring = self._scorings[task, cell.method]
            made[self._commands.scoring(task, cell.method, seed)] = self._codes.score(scoring)
        return made | own

    def _check_content(self, path: str | os.PathLike, dataset: str, content: list) -> None:
        first, expected = self._contents.setdefault(dataset, (path, content))
        if content != expected:
            raise _refusal(path, "provenance: content of the prepared data", content, f"{expected}, as {first} has it")

    def _entries(self, cell: Cell) -> dict[str, object]:
        task = self.grid.tasks[cell.task]
        network = task.network
        if cell.method != DENSE[0] and facts(cell.method).kind == "architecture":
            network = facts(cell.method).networks[network]
        return {"dataset": task.dataset, "network": network, "width": float(task.width)}


def _check_stages(path: str | os.PathLike, recorded: list[dict], expected: dict[str, str]) -> None:
    codes = {stage.get("command"): stage.get("code") for stage in recorded}
    wanted = {f"fgp {command}": code for command, code in expected.items()}
    surplus = [command for command in codes if command not in wanted]
    for command, code in wanted.items():
        stage = command.split()[1]
        if command not in codes:
            alike = [other for other in surplus if other and other.split()[:2] == command.split()[:2]]
            found, asked = _difference(alike[0], command) if alike else ("no such stage", command)
            raise _refusal(path, f"provenance: command of fgp {stage}", found, asked)
        if codes[command] != code:
            raise _refusal(path, f"provenance: code of fgp {stage}", codes[command], f"{code}, the present code")
    if surplus:
        raise _refusal(path, "provenance: a stage that has no part in it", surplus[0], "none")


def _difference(found: str, expected: str) -> tuple[str, str]:
    """Return the flags, each with its values, in which two command lines of one subcommand differ."""
    one, other = _flags(found), _flags(expected)
    sides = [[flag for flag in own if flag not in their] for own, their in ((one, other), (other, one))]
    return " ".join(sides[0]) or "nothing", " ".join(sides[1]) or "nothing"


def _flags(command: str) -> list[str]:
    """Return the flags of a command line, each with its values."""
    flags: list[list[str]] = [[]]
    for word in command.split():
        if word.startswith("--"):
            flags.append([])
        flags[-1].append(word)
    return [" ".join(words) for words in flags]


def _check_dense(path: str | os.PathLike, metrics: dict, stages: list[dict], dense: dict) -> None:
    for entry in _OF_THE_DENSE_NETWORK:
        if entry == "channels" and metrics["network"] in _REPLACEMENTS:
            continue
        if metrics[entry] != dense[entry]:
            raise _refusal(path, entry, metrics[entry], f"{dense[entry]}, the dense network's")
    trained = dense["provenance"]
    for stage in stages:
        if stage.get("command") == trained["command"] and stage.get("finished") != trained["finished"]:
            raise _refusal(path, "provenance: dense network of", stage.get("finished"), trained["finished"])


def _refusal(path: str | os.PathLike, entry: str, found: object, expected: object) -> FgpError:
    return FgpError(
        f"{path}: {entry}: found {found}, this configuration asks for {expected}; "
        "it is not a result of this configuration as it is now: delete it and run snakemake again"
    )


_REPLACEMENTS = {name for name, network in NETWORKS.items() if network.replaces}
