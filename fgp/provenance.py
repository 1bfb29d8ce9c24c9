"""What produced a result: command, earlier stages, commit, versions, hardware, time."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from fgp.files import parse_json, read_json

COMMAND: ContextVar[list[str]] = ContextVar("COMMAND")
"""Words of the running subcommand; a process that runs several has one at a time."""

PACKAGES = ("torch", "torchvision", "torch-pruning", "segmentation-models-pytorch", "snakemake", "numpy")


def collect(device: str = "cpu", inputs: Iterable[str | os.PathLike | None] = (), **extra: object) -> dict:
    """Describe this process as a JSON-ready dictionary.

    Args:
        device: where it computed.
        inputs: the files of earlier stages that its result is made from, None for one that is not there; what they say about
            their making becomes the entry `stages`.
        extra: entries added as they are.
    """
    return {
        "command": shlex.join(["fgp", *COMMAND.get(sys.argv[1:])]),
        "code": os.environ.get("FGP_CODE"),
        "stages": _earlier(path for path in inputs if path),
        **_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **extra,
    }


def read(path: str | os.PathLike) -> dict:
    """Return the provenance in a file that a stage wrote (prepared data, weights, scores, JSON), {} if there is none.

    Raises:
        FgpError: a JSON file cannot be read.
    """
    if Path(path).suffix == ".json":
        found = read_json(path)
    else:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                found = parse_json((file.metadata() or {}).get("fgp", "{}"))
        except (SafetensorError, OSError, ValueError):
            found = {}
    recorded = found.get("provenance")
    return recorded if isinstance(recorded, dict) else {}


def chain(recorded: dict) -> list[dict]:
    """Return the stages that led to a result with this provenance, the first first.

    Each has its command, code and time; the preparation of data also `content`, a SHA-256 of all images and labels.
    """
    own = {key: recorded.get(key) for key in ("command", "code", "finished")}
    own |= {"content": recorded["content"]} if "content" in recorded else {}
    earlier = recorded.get("stages")
    return [stage for stage in [*(earlier if isinstance(earlier, list) else ()), own] if _is_stage(stage)]


def digest(recorded: dict) -> str:
    """Return a short hash of a provenance: two results have the same only if one process wrote both."""
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:16]


def _earlier(inputs: Iterable[str | os.PathLike]) -> list[dict]:
    """Return the stages of all inputs, each once; an input that does not tell its command is named in place of it."""
    stages = []
    for path in inputs:
        recorded = read(path)
        known = chain(recorded) if recorded.get("command") else [{"command": None, "file": str(path)}]
        stages += [stage for stage in known if stage not in stages]
    return stages


def _is_stage(value: object) -> bool:
    return isinstance(value, dict) and all(entry is None or isinstance(entry, str) for entry in value.values())


@functools.cache
def _commit() -> dict:
    """Ask git once a process; the code that runs is that of the process's start anyway."""
    repository = Path(__file__).parent.parent
    git = ["git", "--no-optional-locks", "-C", str(repository), "status", "--porcelain=v2", "--branch", "-uno"]
    try:
        lines = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    oid, *changes = (line for line in lines if line.startswith("# branch.oid ") or not line.startswith("#"))
    commit = oid.split()[-1]
    return {"commit": None if commit == "(initial)" else commit, "dirty": bool(changes)}


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
