"""Seconds that a process of the workflow spends beside its work, beyond those of `import torch`.

Runs every subcommand on next to nothing, a few digits and a narrow VGG-16, in a process of its own. See benchmarks/README.md.
"""

import argparse
import resource
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy
import torch

from benchmarks import harness, workflow

MOST_SECONDS = 0.5
CONFIG = shlex.quote(str(workflow.ROOT / "config/demo.yaml"))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "FGP_THREADS": "1"}
PYTHON, TORCH = "python -c pass", "import torch"
PRINTED = ("what", "seconds", "against", "ratio", "beyond", "target", "within")

_DATA = "--data data.safetensors"
_NETWORK = "--network vgg16 --width 0.0625"
_TRAINING = f"{_DATA} --seed 0 --epochs 1 --batch-size 10 --lr 0.02 --device cpu"
_SCORING = f"{_DATA} --weights dense.safetensors --seed 0 --device cpu"
_TABLE = f"--config {CONFIG} --cells cells.csv"
COMMANDS = {
    PYTHON: (None, "-c pass"),
    TORCH: (None, "-c 'import torch'"),
    "fgp data": (None, "-m fgp data --source digits --train-limit 20 --test-limit 10 --out data.safetensors"),
    "fgp budgets": (TORCH, f"-m fgp budgets {_NETWORK} {_DATA} --out budgets.json"),
    "fgp train": (TORCH, f"-m fgp train {_NETWORK} {_TRAINING} --out dense.safetensors --metrics dense.json"),
    "fgp score, L1": (TORCH, f"-m fgp score --method l1 {_SCORING} --out scores.safetensors"),
    "fgp score, FGP": (TORCH, f"-m fgp score --method fgp {_SCORING} --out fgp.safetensors"),
    "fgp prune": (
        TORCH,
        f"-m fgp prune --scores scores.safetensors --weights dense.safetensors {_DATA} --selection macs-0.5"
        " --write-plan plan.json --out pruned.safetensors",
    ),
    "fgp finetune": (
        TORCH,
        f"-m fgp finetune --weights pruned.safetensors {_TRAINING} --out model.safetensors --metrics metrics.json",
    ),
    "fgp stage, sparse": (TORCH, f"-m fgp stage --method slimming {_NETWORK} {_TRAINING} --out sparse.safetensors"),
    "fgp stage, gradual": (
        TORCH,
        f"-m fgp stage --method frs --selection macs-0.9 {_NETWORK} {_TRAINING} --out gradual.safetensors --plan gradual.json",
    ),
    "fgp evaluate": (TORCH, f"-m fgp evaluate {_DATA} --weights model.safetensors --device cpu"),
    "fgp measure": (
        TORCH,
        f"-m fgp measure {_DATA} --weights model.safetensors --batch-sizes 1 --seconds 0.01 --device cpu --out latency.json",
    ),
    "collect": (PYTHON, f"-m fgp_workflow.collect --config {CONFIG} --missing-ok --out cells.csv"),
    "tables": (PYTHON, f"-m fgp_workflow.tables --table 1 {_TABLE} --out-dir ."),
    "figures": (None, f"-m fgp_workflow.figures --figure 3a {_TABLE} --missing-ok --out-stem figure"),
}
"""{what: (what it is compared with, None: it has no bound; arguments of Python)}, each after those that write its input."""


def cpu_seconds(folder: Path, words: str) -> float:
    """Run Python in `folder` on one thread and return the CPU seconds of the process and of those that it started.

    Raises:
        FgpError: it failed.
    """

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    workflow.call(folder, sys.executable, *shlex.split(words), **ONE_THREAD)
    return used() - before


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of every command in every round, after one that is not counted: it writes files and bytecode."""
    with tempfile.TemporaryDirectory() as folder:
        run = {what: partial(cpu_seconds, Path(folder), words) for what, (_, words) in COMMANDS.items()}
        seconds = {what: [] for what in COMMANDS}
        for number in range(repeats + 1):
            for what, once in run.items():
                seconds[what].append(once())
            harness.report(f"round {number} of {repeats} done")
    return {what: found[1:] for what, found in seconds.items()}


def rows(seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    """Return a row a command: its seconds, the ratio to what it is compared with, and what it takes beyond that."""
    found = []
    for what, (against, _) in COMMANDS.items():
        base = seconds[against or PYTHON]
        beyond = float(numpy.median(numpy.subtract(seconds[what], base)))
        measured = harness.summary(seconds[what], base) | {"beyond": f"{beyond:.2f}"}
        bound = harness.within(beyond, MOST_SECONDS if against else None)
        found.append({"what": what, "against": against or PYTHON} | measured | bound)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--repeats", type=harness.count, default=5, metavar="N", help="default: 5")
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV to write (default: below benchmarks/results/)")


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV and print it as a Markdown table.

    Raises:
        FgpError: a command fails.
    """
    torch.set_num_threads(1)
    found = rows(measure(args.repeats))
    origin = harness.origin(workflow.CPU)
    out = args.out or harness.results_file("startup", workflow.CPU)
    harness.write(out, [row | {"repeats": args.repeats} | origin for row in found])
    print(harness.table(found, PRINTED))
    harness.report(f"-> {out}")
