"""Collect `metrics.json` and `latency.json` files into `cells.csv`: tidy, one row a cell, units in the column names."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fgp.errors import FgpError, exit_status
from fgp.files import read_sealed
from fgp.metrics import read_metrics
from fgp_workflow.cells import COLUMNS, KEYS, LATENCY, frame, latency_column, named, write
from fgp_workflow.inputs import read_experiment
from fgp_workflow.layout import Layout

if TYPE_CHECKING:
    from fgp_workflow.proof import Proof

_BELOW = Layout(".")
_BATCH, _SEED = re.compile("[0-9]{1,9}"), re.compile("seed(0|[1-9][0-9]{0,17})")
_LARGEST = 1e15
_SHORT = 10


def cell(path: str | os.PathLike, proof: "Proof | None" = None) -> dict:
    """Read one `<task>/seed<S>/<method>/<selection>/metrics.json` into a row of `cells.csv`; shares become percent.

    Raises:
        FgpError: a key is missing or of the wrong type, the file contradicts its own path, or `proof` refuses it.
    """
    metrics = read_metrics(path)
    said = _BELOW.cell("metrics.json").format(**{key: metrics[key] for key in KEYS}).removeprefix("./")
    if "/".join(Path(path).parts[-5:]) != said:
        raise FgpError(f"{path}: its content belongs to {said}; collect it from there, or run the stage that writes this file")
    accepted = bool(proof and proof.check_cell(path, metrics))
    kept, channels = (sum(metrics[key].values()) for key in ("kept", "channels"))
    provenance = metrics["provenance"]
    return {
        **{key: metrics[key] for key in COLUMNS if key in metrics},
        "before_percent": metrics["before"],
        "after_percent": metrics["after"],
        "macs_remaining_percent": 100 * metrics["macs"] / metrics["dense_macs"],
        "params_remaining_percent": 100 * metrics["params"] / metrics["dense_params"],
        "kept_percent": 100 * kept / channels if channels else None,
        "commit": provenance["commit"],
        "dirty": provenance["dirty"],
        "hardware": _hardware(provenance),
        "finished": provenance["finished"],
        **_other_code(accepted, provenance),
    }


def latencies(path: str | os.PathLike, proof: "Proof | None" = None) -> dict[tuple, dict]:
    """Read one `<task>/seed<S>/latency.json`.

    Returns:
        (task, seed, method, selection) -> columns `latency_b<batch size>_median_ms`, `..._q1_ms`, `..._q3_ms`,
        `..._images_per_second`, `latency_hardware`, and `accepted_code` and `accepted_commits` of the measurement.

    Raises:
        FgpError: the path or a key is not as described, or `proof` refuses the file.
    """
    content = read_sealed(path)
    task, seed = ("", "", *Path(path).parts)[-3:-1]
    if not _SEED.fullmatch(seed):
        raise FgpError(f"{path}: expected a path <task>/seed<S>/latency.json")
    provenance = _mapping(content, "provenance", path)
    rows = {}
    for network in _mapping(content, "latency", path):
        method, slash, selection = network.partition("/")
        if not slash:
            raise FgpError(f"{path}: key latency.{network}: expected <method>/<selection>; measure again")
        row: dict[str, object] = {"latency_hardware": _hardware(provenance, content.get("threads"))}
        for batch, numbers in _mapping(content["latency"], network, path).items():
            for name in LATENCY:
                value = numbers.get(name) if isinstance(numbers, dict) else None
                if not _BATCH.fullmatch(batch) or type(value) not in (int, float) or not 0 <= value < _LARGEST:
                    key = f"latency.{network}.{batch}.{name}"
                    raise FgpError(f"{path}: key {key}: expected a number, found {value!r}; measure again")
                row[latency_column(batch, name)] = value
        rows[task, int(seed.removeprefix("seed")), method, selection] = row
    other = _other_code(bool(proof and proof.check_latency(path, content)), provenance)
    return {key: row | other for key, row in rows.items()}


def collect(
    metrics: Iterable[str | os.PathLike],
    latency: Iterable[str | os.PathLike] = (),
    proof: "Proof | None" = None,
    holes: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Join metrics and latencies into the table `cells.csv`, sorted by task, seed, method and selection.

    Latencies of networks without a cell are left out. With `proof`, every file must belong to its configuration.
    With `holes`, a file that is missing or wrong is left out and entered there with the reason.

    Raises:
        FgpError: a file is wrong (see `cell`, `latencies`) or a cell or latency occurs twice.
    """
    rows: dict[tuple, dict] = {}
    for path, row in _each(cell, metrics, proof, holes):
        key = tuple(row[name] for name in KEYS)
        if key in rows:
            raise FgpError(f"{path}: the same cell as {rows[key]['file']} ({named(key)}); give it once")
        rows[key] = row | {"file": path}
    measured: dict[tuple, object] = {}
    for path, columns in _each(latencies, latency, proof, holes):
        for key, values in columns.items():
            if key in measured:
                raise FgpError(f"{path}: {named(key)} was also measured in {measured[key]}; give one of them")
            measured[key] = path
            if key in rows:
                rows[key] |= values | _joined(rows[key], values)
    return frame(list(rows.values()))


def _each(reader: Callable, paths: Iterable, proof: "Proof | None", holes: dict[str, str] | None) -> Iterable[tuple]:
    """Yield every path with what `reader` returns; into `holes`, if given, go those that it refuses."""
    for path in paths:
        try:
            yield path, reader(path, proof)
        except FgpError as error:
            if holes is None:
                raise
            holes[str(path)] = str(error)


def _other_code(accepted: bool, provenance: dict) -> dict[str, object]:
    """Return the columns that say whether a file was made by other code than the present, and by which."""
    commit = provenance.get("commit")
    known = f"{commit[:_SHORT]}{'-dirty' if provenance.get('dirty') else ''}" if isinstance(commit, str) else "unknown"
    return {"accepted_code": accepted, "accepted_commits": known if accepted else None}


def _joined(row: dict, latency: dict) -> dict[str, object]:
    """Return the columns of `_other_code` of a cell together with its latency."""
    commits = dict.fromkeys(part["accepted_commits"] for part in (row, latency) if part["accepted_code"])
    return {"accepted_code": bool(commits), "accepted_commits": " ".join(commits) or None}


def _mapping(parent: dict, key: str, path: str | os.PathLike) -> dict:
    if not isinstance(parent.get(key), dict):
        raise FgpError(f"{path}: key {key}: expected an object; measure again")
    return parent[key]


def _hardware(provenance: dict, threads: int | None = None) -> str | None:
    """Return one line such as "Some CPU, cpu, threads 1" or "Some CPU, Some GPU"."""
    hardware = provenance.get("hardware")
    hardware = hardware if isinstance(hardware, dict) else {}
    threads = provenance.get("threads", threads)
    parts = [hardware.get("cpu"), hardware.get("gpu") or hardware.get("device"), f"threads {threads}" if threads else None]
    return ", ".join(str(part) for part in parts if part) or None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fgp_workflow.collect", description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", nargs="*", default=[], metavar="FILE", help="metrics.json files")
    parser.add_argument("--latency", nargs="*", default=[], metavar="FILE", help="latency.json files")
    parser.add_argument(
        "--config", metavar="FILE", help="the resolved configuration of a run: collect its cells, below its folder"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="cells.csv")
    parser.add_argument("--missing-ok", action="store_true", help="leave out cells that are missing or wrong, and say which")
    parser.add_argument(
        "--accept-code",
        action="store_true",
        help="with --config: take cells of the same settings that other code than the present made; tables and figures say so",
    )
    args = parser.parse_args(argv)
    if args.accept_code and not args.config:
        parser.error("--accept-code: only with --config, by which cells are checked")

    def make() -> None:
        metrics, latency, proof = list(args.metrics), list(args.latency), None
        if args.config:
            experiment = read_experiment(args.config)
            from fgp_workflow.proof import Proof

            proof = Proof(experiment, args.accept_code)
            paths = Layout(str(Path(args.config).parent))
            metrics += paths.metrics(experiment)
            latency += paths.latencies(experiment)
        if not metrics:
            raise FgpError("--metrics, --config: no metrics.json given")
        holes = {} if args.missing_ok else None
        cells = collect(metrics, latency, proof, holes)
        for reason in (holes or {}).values():
            print(f"left out: {reason}", file=sys.stderr)
        write(cells, args.out)

    return exit_status("collect", make)


if __name__ == "__main__":
    sys.exit(main())
