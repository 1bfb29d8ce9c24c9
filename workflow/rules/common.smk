import os
import re
import shlex
import sys
from pathlib import Path

import baselines
import yaml
from fgp.errors import FgpError
from fgp_workflow import codehash
from fgp_workflow.commands import Commands, method_module
from fgp_workflow.config import load
from fgp_workflow.grid import Grid
from snakemake.exceptions import WorkflowError

# Jobs run the Python that runs Snakemake, and find the packages of this checkout.
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    f" PYTHONPATH={shlex.quote(str(workflow.basedir))}:{shlex.quote(str(workflow.basedir))}/workflow; "
)

try:
    CONFIG = load(config, ", ".join(map(str, workflow.configfiles)))
except FgpError as error:
    raise WorkflowError(str(error)) from None

GRID = Grid(CONFIG)
COMMANDS = Commands(GRID)
ROOT = COMMANDS.root
GPU = 0 if CONFIG.device == "cpu" else 1
TABLES = expand(f"{ROOT}/tables/table{{table}}.{{ext}}", table=GRID.tables, ext=["csv", "md", "tex"])
FIGURES = expand(
    f"{ROOT}/figures/{{figure}}.{{ext}}",
    figure=[figure for figure, section in CONFIG.figures if section],
    ext=["pdf", "png"],
)


def resolved_config():
    """The checked configuration with every default, as YAML."""
    return yaml.safe_dump(CONFIG.model_dump(mode="json"), sort_keys=False)


def print_results():
    """Say where the results lie."""
    found = [path for path in (*TABLES, *FIGURES, f"{ROOT}/report.html") if Path(path).exists()]
    readable = [path for path in found if not path.endswith((".csv", ".tex", ".pdf"))]
    if readable:
        print("Results:", *readable, sep="\n  ", file=sys.stderr)
