import os
import re
import shlex
import sys
from pathlib import Path

import baselines
import yaml
from fgp.errors import FgpError
from fgp_workflow.codes import Codes
from fgp_workflow.collect import collect as collect_cells, files as cell_files
from fgp_workflow.commands import Commands, method_module
from fgp_workflow.config import load
from fgp_workflow.grid import Grid
from fgp_workflow.proof import Proof
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    CONFIG = load(config, ", ".join(map(str, workflow.configfiles)))
except FgpError as error:
    raise WorkflowError(str(error)) from None

GRID = Grid(CONFIG)
COMMANDS = Commands(GRID)
CODES = Codes(GRID)
ROOT = COMMANDS.root
PARTIAL = f"{ROOT}/partial"
GPU = 0 if CONFIG.device == "cpu" else 1
TABLES = expand(f"{ROOT}/tables/table{{table}}.{{ext}}", table=GRID.tables, ext=["csv", "md", "tex"])
FIGURES = expand(
    f"{ROOT}/figures/{{figure}}.{{ext}}",
    figure=[figure for figure, section in CONFIG.figures if section],
    ext=["pdf", "png"],
)


def on_gpu(*flags):
    """The words before a command that put it on a GPU (docs/gpus.md); none where the device is the CPU."""
    words = ["python", "-m", "fgp_workflow.gpu_slot", *flags, *["--optional"] * (CONFIG.device == "auto"), "--"]
    return shlex.join(words) if GPU else ""


def gpu_mem_mb(task):
    """What a job of a task takes of a declared `--resources gpu_mem_mb=...`."""
    return GPU * GRID.tasks[task].gpu_mem_mb


def every_gpu():
    """All of a declared `--resources gpu=...`."""
    return GPU * (workflow.global_resources.get("gpu").value or 1)


# Jobs run the Python that runs Snakemake, and find the packages of this checkout. The rules name $ON_GPU and $ALONE_ON_GPU only, and
# threads are set here: Snakemake reruns finished jobs when the text of their `shell` or their parameters change.
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    f" PYTHONPATH={shlex.quote(str(workflow.basedir))}:{shlex.quote(str(workflow.basedir))}/workflow FGP_THREADS={CONFIG.threads}; "
    f"ON_GPU={shlex.quote(on_gpu('--slots', str(CONFIG.gpu_slots)))} ALONE_ON_GPU={shlex.quote(on_gpu('--alone'))}; "
)


def resolved_config():
    """The checked configuration with every default, as YAML, without what changes no result."""
    machine = {"threads": True, "gpu_slots": True, "tasks": {task: {"gpu_mem_mb"} for task in CONFIG.tasks}}
    return yaml.safe_dump(CONFIG.model_dump(mode="json", exclude=machine), sort_keys=False)


def partial_commands(config):
    """Yield the commands that make tables and figures of the cells that there are. Figure 1 shows no cells."""
    yield f"rm -rf {PARTIAL}"
    yield f"python -m fgp_workflow.collect --config {config} --missing-ok --out {PARTIAL}/cells.csv"
    given = f"--cells {PARTIAL}/cells.csv --config {config}"
    for table in GRID.tables:
        yield f"python -m fgp_workflow.tables {given} --table {table} --out-dir {PARTIAL}/tables"
    for name, section in CONFIG.figures:
        if section and name != "fig1":
            figure = f"--figure {name.removeprefix('fig')} --missing-ok --out-stem {PARTIAL}/figures/{name}"
            yield f"python -m fgp_workflow.figures {given} {figure}"


def print_missing():
    """Say, after a failure, which cells are missing and which commands get them, or tables without them."""
    metrics, _ = cell_files(GRID, Path(ROOT))
    holes = {}
    collect_cells(metrics, proof=Proof(GRID), holes=holes)
    if not holes:
        return
    folders = [str(Path(path).parent.relative_to(ROOT)) for path in holes]
    lines = [f"{len(holes)} of {len(metrics)} cells are missing; the failed jobs say why:"]
    lines += [f"    {cell}" for cell in folders[:20]]
    lines += [f"    and {len(holes) - 20} more"] if len(holes) > 20 else []
    lines += ["To get them: correct the cause and run the same command again. What is finished stays."]
    lines += [f"    {shlex.join(['snakemake', *sys.argv[1:]])}"]
    lines += [f"Until then, tables and figures of what there is, in {PARTIAL}:"]
    lines += [f"    snakemake partial_tables --cores 1 --configfile {ROOT}/config.yaml"]
    logger.error("\n".join(lines))


def print_results():
    """Say where the results lie."""
    made = [*TABLES, *FIGURES, f"{ROOT}/report.html"]
    if "partial_tables" in workflow.dag_settings.targets:
        made = sorted(map(str, Path(PARTIAL).rglob("*.*")))
    found = [path for path in made if Path(path).exists()]
    readable = [path for path in found if not path.endswith((".csv", ".tex", ".pdf"))]
    if readable:
        print("Results:", *readable, sep="\n  ", file=sys.stderr)
