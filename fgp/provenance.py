"""What produced a result: command, commit, versions, hardware, time."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path

COMMAND: ContextVar[list[str]] = ContextVar("COMMAND")
"""Words of the running subcommand; a process that runs several has one at a time."""

PACKAGES = ("torch", "torchvision", "torch-pruning", "segmentation-models-pytorch", "snakemake", "numpy")


def collect(device: str = "cpu", **extra: object) -> dict:
    """Describe this process as a JSON-ready dictionary; `extra` entries are added as they are."""
    return {
        "command": shlex.join(["fgp", *COMMAND.get(sys.argv[1:])]),
        **_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **extra,
    }


def _commit() -> dict:
    repository = Path(__file__).parent.parent
    git = ["git", "-C", str(repository)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(status.strip())}


def _versions() -> dict:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _hardware(device: str) -> dict:
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": device}
    if device.startswith("cuda"):
        import torch

        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
