"""What produced a result: command, earlier stages, commit, versions, hardware, time."""

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from fgp import files

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
        "key": os.environ.get("FGP_KEY"),
        "stages": _earlier(path for path in inputs if path),
        **_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **extra,
    }


def read(path: str | os.PathLike) -> dict:
    """Return the provenance in a file of fgp of any kind (prepared data, weights, scores, JSON), {} if there is none.

    Raises:
        FgpError: the file cannot be read, is none of fgp, or was changed since it was written.
    """
    files.require_file(path, f"make it with {files.ANY.maker}")
    with open(path, "rb") as file:
        is_json = file.read(1) == b"{"
    if is_json:
        recorded = files.read_sealed(path).get("provenance")
        return recorded if isinstance(recorded, dict) else {}
    from fgp import tensorfiles

    found = tensorfiles.metadata(path)
    recorded = found.get("provenance")
    return {**recorded, "digest": found["digest"]} if isinstance(recorded, dict) else {}


def chain(recorded: dict) -> list[dict]:
    """Return the stages that led to a result with this provenance, the first first.

    Each has its command, the key that the workflow gave it (null outside of it), the digest of the tensors that it wrote and its
    time.
    """
    own = {key: recorded.get(key) for key in ("command", "key", "digest", "finished")}
    earlier = recorded.get("stages")
    return [stage for stage in [*(earlier if isinstance(earlier, list) else ()), own] if _is_stage(stage)]


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
