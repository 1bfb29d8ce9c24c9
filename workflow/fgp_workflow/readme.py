"""The parts of the README that are made from files: the table of the published demo and the picture of the rules (`make readme`).

What stands between `<!-- NAME -->` and `<!-- /NAME -->` is replaced; a test fails where the README differs.
"""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

from fgp_workflow import cells
from fgp_workflow.experiment import DENSE, Experiment, as_defined, count, equal_macs, facts
from fgp_workflow.inputs import read_experiment

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published" / "demo-digits-and-scenes_seed-0_cpu"
_METRICS = {"top1": "top-1", "miou": "mIoU"}


def demo() -> str:
    """Return the published demo as a Markdown table: a line a method, a column a task."""
    experiment, table = read_experiment(PUBLISHED / "config.yaml"), cells.read(PUBLISHED / "cells.csv")
    columns = {_heading(experiment, task, table): _column(experiment, task, table) for task in experiment.config.tasks}
    shown = pd.DataFrame(columns).reindex(dict.fromkeys(row for column in columns.values() for row in column.index)).fillna("")
    return shown.to_markdown(colalign=["left"] + ["right"] * len(columns))


def rules() -> str:
    """Return the rules of the demo's DAG and what they take from each other, as a Mermaid diagram."""
    command = [sys.executable, "-m", "snakemake", "all", "--configfile", "config/demo.yaml", "--rulegraph", "mermaid-js"]
    drawn = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    edges = sorted(f"    {names[source]} --> {names[target]}" for source, target in re.findall(r"(id\d+) --> (id\d+)", drawn))
    return "\n".join(["```mermaid", "flowchart LR", *edges, "```"])


def updated(text: str) -> str:
    """Return the text of the README with its made parts as they are now."""
    for name, part in (("demo", demo()), ("rules", rules())):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest.partition(f"<!-- /{name} -->")[2]
        text = f"{before}<!-- {name} -->\n\n{part}\n\n<!-- /{name} -->{after}"
    return text


def _heading(experiment: Experiment, name: str, table: pd.DataFrame) -> str:
    task = experiment.config.tasks[name]
    metric = _METRICS[table[table.task == name].metric.iloc[0]]
    return f"{task.network} on {task.dataset}, {metric}"


def _column(experiment: Experiment, name: str, table: pd.DataFrame) -> pd.Series:
    """Return the percents after fine-tuning of one task, by the row that they stand in."""
    task, of_task = experiment.config.tasks[name], table[table.task == name].set_index(["method", "selection"])
    found = {"dense": f"{of_task.loc[DENSE].after_percent:.1f}"}
    for k in task.k.values():
        for selection in as_defined(k):
            row = of_task.loc["fgp", selection]
            reading = "Eq. 11" if selection == count(k) else "Section 5.4"
            found[f"FGP as defined ({reading})"] = f"{row.after_percent:.1f} ({row.macs_remaining_percent:.0f} % MACs)"
    (share,) = task.budgets.values()
    found["**at equal MACs:**"] = f"{100 * share:.0f} %"
    for method in experiment.methods_of(name):
        found[facts(method).label] = f"{of_task.loc[method, equal_macs(share, task, method)].after_percent:.1f}"
    return pd.Series(found)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text()))
