"""Budgets that an earlier run has found to be out of reach: refused when the DAG is built, without torch."""

from fgp.errors import FgpError
from fgp.files import read_sealed
from fgp.selections import out_of_reach, parse
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout


def check(keys: Keys, paths: Layout, configuration: str) -> None:
    """Check the cells of every task whose `budgets.json` is there, whole and up to date.

    Raises:
        FgpError: a number of MACs cannot be met; the message names the configuration, the task, the cells and what would help.
    """
    experiment = keys.experiment
    for name, task in experiment.tasks.items():
        try:
            reach = read_sealed(paths.budgets.format(task=name))
        except FgpError:  # no such file, or a damaged one, which no job reads
            continue
        if reach.get("provenance", {}).get("key") != keys.budgets(name).key:
            continue
        for cell in experiment.cells_of(name):
            problem = cell.selection.startswith("macs-") and out_of_reach(parse(cell.selection), reach, task.tied)
            if problem:
                raise FgpError(f"{configuration}: tasks.{name}: {task.network} at width {task.width:g}: {problem}")
