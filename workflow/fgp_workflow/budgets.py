"""Budgets that an earlier run has found to be out of reach: refused when the DAG is built, without torch."""

from pathlib import Path

from fgp.errors import FgpError
from fgp.files import read_sealed
from fgp.selections import out_of_reach, parse
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout


def check(keys: Keys, paths: Layout, configuration: str) -> None:
    """Check the cells of every task whose `budgets.json` is there and up to date.

    Raises:
        FgpError: a number of MACs cannot be met; the message names the configuration, the task, the cells and what would help.
    """
    experiment = keys.experiment
    for name, task in experiment.tasks.items():
        file = Path(paths.budgets.format(task=name))
        if not file.exists():
            continue
        reach = read_sealed(file)
        if reach["provenance"]["key"] != keys.budgets(name).key:
            continue
        for cell in experiment.cells_of(name):
            problem = cell.selection.startswith("macs-") and out_of_reach(parse(cell.selection), reach, task.tied)
            if problem:
                raise FgpError(f"{configuration}: tasks.{name}: {task.network} at width {task.width:g}: {problem}")
