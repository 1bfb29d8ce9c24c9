"""Whether a result is one of this configuration: it and what led to it have the keys that the configuration gives the stages now.

And whether the results fit together: two that name the same stage must have read the same tensors from it. The digests protect
against accidents, such as files of two runs in one folder, not against forgery.
"""

import os
from pathlib import Path

from fgp import provenance
from fgp.errors import FgpError
from fgp_workflow.experiment import Cell, Experiment
from fgp_workflow.keys import Keys, Stage, halves


class Proof:
    """Checks the results of an experiment one after another.

    Args:
        experiment: what was asked for.
        accept_code: take results that other code made than the present, if with the same settings.
    """

    def __init__(self, experiment: Experiment, accept_code: bool = False) -> None:
        self._keys, self._accept_code = Keys(experiment), accept_code
        self._cells = set(experiment.cells)
        self._tensors: dict[str, tuple[str, object]] = {}
        self._networks: dict[tuple[str, str, str], str] = {}

    def check_cell(self, path: str | os.PathLike, metrics: dict) -> bool:
        """Check the content of a metrics file; return whether other code than the present made it.

        Raises:
            FgpError: it is not what the configuration asks for, or was made from other tensors than a result checked before.
        """
        cell, seed = Cell(metrics["task"], metrics["method"], metrics["selection"]), metrics["seed"]
        if cell not in self._cells:
            raise _refusal(path, f"this configuration has no cell {cell.task} {cell.path}")
        recorded = metrics["provenance"]
        accepted = self._check(path, recorded, self._keys.cell(cell.task, seed, cell.method, cell.selection).way())
        for stage in provenance.chain(recorded):
            self._check_tensors(path, stage)
        self._networks[cell.task, str(seed), cell.path] = recorded.get("digest")
        return accepted

    def check_latency(self, path: str | os.PathLike, content: dict) -> bool:
        """Check the content of a latency file, after the cells whose networks it measures; return as `check_cell`.

        Raises:
            FgpError: it is not what the configuration asks for, or of other networks than those of the cells.
        """
        task, seed = Path(path).parts[-3], Path(path).parts[-2].removeprefix("seed")
        recorded = content["provenance"]
        accepted = self._check(path, recorded, [self._keys.measure(task, seed)])
        measured = recorded.get("networks")
        for (of_task, of_seed, name), digest in self._networks.items():
            found = measured.get(name) if isinstance(measured, dict) else None
            if (of_task, of_seed) == (task, seed) and found != digest:
                raise _refusal(path, f"it measured another network {name} than the one that lies there")
        return accepted

    def _check(self, path: str | os.PathLike, recorded: dict, way: list[Stage]) -> bool:
        """Check a result by the stages that led to it, the last one its own; return whether other code made one of them."""
        if not isinstance(recorded.get("key"), str):
            raise _refusal(path, "it was not made by this workflow: it has no key")
        ran = [key for stage in provenance.chain(recorded) if (key := stage.get("key"))]
        if recorded["key"] == way[-1].key and {stage.key for stage in way} <= {*ran}:
            return False
        settings = {halves(key)[0] for key in ran}
        foreign = [stage for stage in way if halves(stage.key)[0] not in settings]
        if foreign or halves(recorded["key"])[0] != halves(way[-1].key)[0]:
            raise _refusal(path, self._difference(recorded, (foreign or way[-1:])[0]))
        if self._accept_code:
            return True
        first = next((stage for stage in way if stage.key not in ran), way[-1])
        raise _refusal(path, f"fgp {first.name} was run with other code than the present", code_alone=True)

    def _difference(self, recorded: dict, first: Stage) -> str:
        """Say that a stage was run with other settings, and which were asked for, where that is seen."""
        commands = [entry.get("command") or "" for entry in provenance.chain(recorded)]
        commands = [command for command in commands if command.split()[1:2] == [first.name]]
        asked = [flag for flag in _flags(first.settings) if not any(flag in _flags(command) for command in commands)]
        what = f"; asked for {' '.join(asked)}" if commands and asked else ""
        settings = "settings, or other files in the data root," if first.name == "data" else "settings"
        return f"fgp {first.name} was run with other {settings} than this configuration has{what}"

    def _check_tensors(self, path: str | os.PathLike, stage: dict) -> None:
        key, digest = stage.get("key"), stage.get("digest")
        if not (key and digest):
            return
        known, first = self._tensors.setdefault(key, (digest, path))
        if known != digest:
            command = (stage.get("command") or "a stage").split(" --")[0]
            raise _refusal(path, f"it was made from another result of {command} than {first}")


def _flags(command: str) -> list[str]:
    """Return the flags of a command line, each with its values; not what stands before them."""
    flags: list[list[str]] = [[]]
    for word in command.split():
        if word.startswith("--"):
            flags.append([])
        flags[-1].append(word)
    return [" ".join(words) for words in flags[1:]]


def _refusal(path: str | os.PathLike, reason: str, code_alone: bool = False) -> FgpError:
    advice = "run snakemake again, which makes what is missing or stale, with --force and this path if it takes it for finished"
    if code_alone:
        advice += "; or keep it, which every table then says: --config accept_code=true"
    return FgpError(f"{path}: no result of this configuration as it is now: {reason}; {advice}")
