import os
import re
import shlex
import sys
from pathlib import Path

import yaml
from fgp.errors import FgpError
from fgp_workflow import budgets, data_root, rate_limit, run_lock
from fgp_workflow.config import load
from fgp_workflow.config_checks import too_many_threads
from fgp_workflow.experiment import Experiment, facts, kind, module
from fgp_workflow.inputs import check_repeated_keys
from fgp_workflow.keys import Keys, recorded
from fgp_workflow.layout import Layout
from fgp_workflow.settings import Settings
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

NAME = ", ".join(map(str, workflow.configfiles))
try:
    for file in workflow.configfiles:
        check_repeated_keys(file)
    CONFIG = load(config, NAME)
    EXPERIMENT = Experiment(CONFIG)
    SETTINGS = Settings(EXPERIMENT)  # what the configuration sets for a stage, as words of its command line
    PATHS = Layout(f"results/{CONFIG.run}")  # every path below results/, with wildcards
    # What the result of a stage depends on; a changed key makes Snakemake run it again.
    KEYS = Keys(EXPERIMENT, recorded(PATHS.root) if CONFIG.accept_code else None)
    budgets.check(KEYS, PATHS, NAME)
    if workflow.is_main_process:
        data_root.check(KEYS, PATHS, NAME)
except FgpError as error:
    raise WorkflowError(str(error)) from None


def resolved(config):
    """The checked configuration with every default, as YAML, without what changes no result."""
    machine = {"threads", "gpu_slots", "accept_code"}
    left_out = dict.fromkeys(machine, True) | {"tasks": {task: {"gpu_mem_mb"} for task in config.tasks}}
    return yaml.safe_dump(config.model_dump(mode="json", exclude=left_out), sort_keys=False)


GPU = 0 if CONFIG.device == "cpu" else 1
CELLS = PATHS.metrics(EXPERIMENT)
MARK = PATHS.run("logs", "configuration", Keys(EXPERIMENT).results(resolved(CONFIG)))
TABLES = expand(PATHS.run("tables", "table{table}.{format}"), table=EXPERIMENT.tables, format=["csv", "md", "tex", "html"])
FIGURES = expand(PATHS.run("figures", "fig{figure}.{format}"), figure=EXPERIMENT.figures, format=["pdf", "png"])
PRINTED = os.path.relpath(f"{workflow.basedir}/config/printed/tables.yaml")  # the same where the checkout is moved


def one_of(names):
    """A wildcard constraint: one of these names; none at all where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


# The rules that make a cell, by the kind of its method (fgp_workflow/kinds.py):
#     criterion         train (the dense network), score, prune, finetune
#     sparse-training   sparse_training, score, prune, finetune
#     gradual           gradual (prunes while it trains), finetune
#     architecture      train (another network in place of the dense one)
#     scratch           scratch (trains the architecture that another method has pruned)
def through(rule):
    """A wildcard constraint: the methods whose cells pass through a rule, but those that bring one of their own in its place."""
    return one_of(EXPERIMENT.methods_through(rule))


def data_of(wildcards):
    """The prepared data of a task."""
    return PATHS.data.format(dataset=EXPERIMENT.tasks[wildcards.task].dataset)


def start_of(wildcards):
    """The network that the own training of a method starts from; [] for random weights."""
    return PATHS.dense().format(**wildcards) if facts(wildcards.method).start == "dense" else []


def scored_by(wildcards):
    """The network that a method scores: that of its own training, or the dense one."""
    own = kind(wildcards.method).own_network
    return (PATHS.method(own) if own else PATHS.dense()).format(**wildcards)


def repairs(wildcards):
    """Whether a method adjusts the weights that stay, for which it looks at images; else pruning is a matter of seconds."""
    return hasattr(module(wildcards.method), "repair")


def gpu_mem_mb(wildcards):
    """What a job of a task takes of a declared `--resources gpu_mem_mb=...`."""
    return GPU * EXPERIMENT.tasks[wildcards.task].gpu_mem_mb


def on_gpu(*flags):
    """The words before a command that put it on a GPU (docs/gpus.md); none where the device is the CPU."""
    words = ["python", "-m", "fgp_workflow.gpu_slot", *flags, *(["--optional"] if CONFIG.device == "auto" else []), "--"]
    return shlex.join(words) if GPU else ""


# Jobs run the Python that runs Snakemake, and find the packages of this checkout. What changes no result is set here and not in the
# rules: Snakemake reruns finished jobs when the text of their `shell` or their parameters change.
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    f" PYTHONPATH={shlex.quote(str(workflow.basedir))}:{shlex.quote(str(workflow.basedir))}/workflow FGP_THREADS={CONFIG.threads}"
    f" {shlex.join([f'FGP_DATA={CONFIG.data_root}'] if CONFIG.data_root else [])}; "
    f"ON_GPU={shlex.quote(on_gpu('--slots', str(CONFIG.gpu_slots)))} ALONE_ON_GPU={shlex.quote(on_gpu('--alone'))}; "
)


def refuse_too_many_threads():
    """Stop before the first job where one takes more threads than this machine has, if jobs run on this machine."""
    problem = None if workflow.non_local_exec else too_many_threads(CONFIG, os.cpu_count() or 1)
    if problem:
        raise WorkflowError(f"{NAME}: {problem}")


def print_results():
    """Say where the results lie."""
    made = [*TABLES, *FIGURES, PATHS.run("report.html")]
    if "partial_tables" in workflow.dag_settings.targets:
        made = sorted(map(str, Path(PATHS.run("partial")).rglob("*.*")))
    readable = [path for path in made if Path(path).exists() and not path.endswith((".csv", ".tex", ".pdf"))]
    if readable:
        print("Results:", *readable, sep="\n  ", file=sys.stderr)


def print_missing():
    """Say, after a failure, which cells are missing and which commands get them, or tables without them."""
    holes = sorted(str(Path(path).parent.relative_to(PATHS.root)) for path in CELLS if not Path(path).exists())
    if not holes:
        return
    lines = [
        f"{len(holes)} of {len(CELLS)} cells are missing; the failed jobs say why:",
        *(f"    {cell}" for cell in holes[:20]),
    ]
    if len(holes) > 20:
        lines.append(f"    and {len(holes) - 20} more")
    lines += ["To get them: correct the cause and run the same command again. What is finished stays."]
    lines += [f"    {shlex.join(['snakemake', *sys.argv[1:]])}"]
    lines += [f"Until then, tables and figures of what there is, in {PATHS.run('partial')}:"]
    lines += [f"    snakemake partial_tables --cores 1 --configfile {PATHS.run('config.yaml')}"]
    logger.error("\n".join(lines))
