"""Run in a mount namespace of its own by test_faults.py: every command that writes, onto a full and onto a read-only disk.

Usage: python fault_cases.py FOLDER. Inputs are made in FOLDER, the disk is mounted at FOLDER/disk. Prints JSON:
[case, fault, exit status, stderr, files left on the disk].
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import fgp_workflow.collect
import fgp_workflow.figures
import fgp_workflow.tables
import yaml
from test_workflow import TINY

import fgp.cli

RECIPE = "--epochs 1 --batch-size 50 --lr 0.05 --seed 0 --device cpu --threads 1"
CELL = "digits-vgg16/seed0/dense/unpruned"
TAGS = "--tag task=digits-vgg16 --tag dataset=digits --tag method=dense --tag selection=unpruned"
INPUTS = f"""
data --source digits --size 32 --train-limit 100 --test-limit 50 --out data.safetensors
train --data data.safetensors --network vgg16 --width 0.0625 {RECIPE} {TAGS} --out dense.safetensors --metrics {CELL}/metrics.json
score --data data.safetensors --weights dense.safetensors --method l1 --seed 0 --out scores.safetensors
plan --data data.safetensors --weights dense.safetensors --scores scores.safetensors --selection macs-0.5 --out plan.json
prune --data data.safetensors --weights dense.safetensors --plan plan.json --out pruned.safetensors
"""
TRAINING = f"--network vgg16 --width 0.0625 --data data.safetensors {RECIPE} --out disk/out/model.safetensors"
# Name, the command without its program, free space in KiB.
CASES = {
    "data": ("data --source digits --size 32 --train-limit 100 --test-limit 50 --out disk/out/data.safetensors", 64),
    "train": (f"train {TRAINING}", 64),
    "claim": (f"train {TRAINING}", 0),
    "checkpoint": (f"train {TRAINING} --checkpoint-seconds 0", 64),
    "stage": (f"stage --method slimming {TRAINING}", 64),
    "score": (
        "score --data data.safetensors --weights dense.safetensors --method l1 --seed 0 --out disk/out/scores.safetensors",
        0,
    ),
    "plan": (
        "plan --data data.safetensors --weights dense.safetensors --scores scores.safetensors --selection macs-0.5"
        " --out disk/out/plan.json",
        0,
    ),
    "prune": (
        "prune --data data.safetensors --weights dense.safetensors --plan plan.json --out disk/out/pruned.safetensors",
        16,
    ),
    "prune by scores": (
        "prune --data data.safetensors --weights dense.safetensors --scores scores.safetensors --selection macs-0.5"
        " --write-plan disk/out/plan.json --out disk/out/pruned.safetensors",
        0,
    ),
    "budgets": ("budgets --network vgg16 --data data.safetensors --out disk/out/budgets.json", 0),
    "finetune": (
        f"finetune --data data.safetensors --weights pruned.safetensors {RECIPE} --out disk/out/model.safetensors",
        16,
    ),
    "evaluate": ("evaluate --data data.safetensors --weights dense.safetensors --device cpu --out disk/out/value.json", 0),
    "measure": (
        "measure --data data.safetensors --weights dense/unpruned=dense.safetensors --batch-sizes 1 --seconds 0.01 --device cpu"
        " --out disk/out/latency.json",
        0,
    ),
    "collect": (f"collect --metrics {CELL}/metrics.json --out disk/out/cells.csv", 0),
    "tables": ("tables --cells cells.csv --config config.yaml --table 1 --out-dir disk/out", 0),
    "figures": ("figures --cells cells.csv --config config.yaml --figure 3a --out-stem disk/out/fig3a", 4),
}
MODULES = {name: getattr(fgp_workflow, name) for name in ("collect", "tables", "figures")}


def run(line: str) -> tuple[int, str]:
    """Run a command in this process; return its exit status and what it said on stderr."""
    words = line.split()
    main, words = (MODULES[words[0]].main, words[1:]) if words[0] in MODULES else (fgp.cli.main, words)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as stop:  # argparse
            status = stop.code
    return status, said.getvalue()


def fill(disk: Path, free: int) -> None:
    """Leave `free` KiB on the disk."""
    with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - 1024 * free)


def main(folder: Path) -> None:
    """Make the inputs, then run every case on either disk."""
    os.chdir(folder)
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(TINY))
    for line in [*INPUTS.strip().splitlines(), f"collect --metrics {CELL}/metrics.json --out cells.csv"]:
        status, said = run(line)
        assert status == 0, (line, said)
    text = (folder / "cells.csv").read_text()
    (folder / "cells.csv").write_text(text + text.splitlines()[1].replace("dense,unpruned", "fgp,cumulative-0.40") + "\n")
    results = []
    for fault in ("full", "read-only"):
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name, (line, free) in CASES.items():
            if fault == "full":
                fill(disk, free)
            status, said = run(line)
            left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())
            results.append((name, fault, status, said, left))
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
