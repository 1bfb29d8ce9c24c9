"""Print the command that rebuilds a result from nothing, out of its provenance

Takes the metrics.json of a cell, or any other file of a stage. It runs the recorded subcommands, from the prepared data on,
with their paths, which are relative to the folder in which it runs: any empty folder will do.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

from fgp import provenance
from fgp.errors import FgpError
from fgp.files import require_file

_OUTPUTS = ("--out", "--metrics", "--curve", "--write-plan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fgp rerun`."""
    parser.add_argument("file", metavar="FILE", help="metrics.json, plan.json, or a weights or scores file")
    parser.add_argument("--run", action="store_true", dest="execute", help="run it too, in this folder; nothing is overwritten")


def run(args: argparse.Namespace) -> None:
    """Print a shell script, warn where this checkout and machine differ from the recorded ones, and with --run run it."""
    require_file(args.file, "name the metrics.json of a cell")
    recorded = provenance.read(args.file)
    subcommands = _subcommands(args.file, recorded)
    for warning in _differences(recorded):
        print(f"fgp rerun: warning: {warning}", file=sys.stderr)
    threads = recorded["threads"] if isinstance(recorded.get("threads"), int) else None
    lines = [*_header(args.file, recorded), *[f"export FGP_THREADS={threads}"] * bool(threads)]
    print(*lines, *(f"fgp {words}" for words in subcommands), sep="\n", flush=True)
    if args.execute:
        _run(subcommands, os.environ | ({"FGP_THREADS": str(threads)} if threads else {}))


def _subcommands(file: str, recorded: dict) -> list[str]:
    """Return the subcommands with their flags, each once, quoted for a shell whatever the file says.

    Raises:
        FgpError: the chain of stages is not complete.
    """
    subcommands = []
    for stage in provenance.chain(recorded):
        try:
            program, *words = shlex.split(stage.get("command") or "")
        except ValueError:
            program = None
        if program != "fgp":
            found = stage.get("file") or file
            raise FgpError(f"{found}: does not say how it was made; make it, and what follows from it, with fgp again")
        subcommands.append(shlex.join(words))
    return list(dict.fromkeys(subcommands))


def _header(file: str, recorded: dict) -> list[str]:
    hardware, versions = ({**_mapping(recorded, key)} for key in ("hardware", "versions"))
    changed = ", with changes that were not committed" * bool(recorded.get("dirty"))
    facts = {
        "result": file,
        "commit": f"{recorded.get('commit')}{changed}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "hardware": ", ".join(f"{key} {value}" for key, value in hardware.items()),
        "finished": recorded.get("finished"),
    }
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in facts.items()]
    return ["#!/bin/sh", *lines, "set -e"]


def _differences(recorded: dict) -> list[str]:
    """Return in what this checkout and machine differ from those of the result: with them, its numbers may differ."""
    try:
        present = provenance.collect(str(_mapping(recorded, "hardware").get("device", "cpu")))
    except (RuntimeError, AssertionError):
        present = provenance.collect()
    pairs = [("commit", recorded.get("commit"), present["commit"])]
    for key in ("versions", "hardware"):
        then, now = _mapping(recorded, key), present[key]
        pairs += [(f"{key}: {name}", then.get(name), now.get(name)) for name in dict.fromkeys([*then, *now])]
    found = [f"{name}: {then} when it was made, {now} here" for name, then, now in pairs if then != now]
    if recorded.get("dirty"):
        found.append("commit: the checkout had changes that were not committed, which are not known")
    return found


def _mapping(recorded: dict, key: str) -> dict:
    value = recorded.get(key)
    return value if isinstance(value, dict) else {}


def _run(subcommands: list[str], environment: dict[str, str]) -> None:
    """Run the subcommands one after another.

    Raises:
        FgpError: a file that they write exists, or one of them fails.
    """
    commands = [shlex.split(words) for words in subcommands]
    for flag, path in itertools.chain.from_iterable(map(itertools.pairwise, commands)):
        if flag in _OUTPUTS and Path(path).exists():
            raise FgpError(f"{path}: exists, and would be overwritten; use --run in an empty folder")
    for words in commands:
        status = subprocess.run([sys.executable, "-m", "fgp", *words], env=environment, check=False).returncode
        if status:
            raise FgpError(f"fgp {words[0]}: ended with status {status}; the message above says why")
