"""Collect `metrics.json` and `latency.json` files into `cells.csv`: tidy, one row a cell, units in the column names.

Loads no torch and no pandas, so that hundreds of files take well under a second.
"""

import argparse
import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fgp.errors import FgpError, exit_status
from fgp.files import atomic, read_json, require_file
from fgp.metrics import read_metrics
from fgp_workflow.grid import Grid
from fgp_workflow.inputs import read_grid
from fgp_workflow.proof import Proof

KEYS = ("task", "seed", "method", "selection")
_TEXTS = (*("task", "dataset", "network", "method", "selection", "metric"), "commit", "hardware", "finished", "latency_hardware")
_INTEGERS = ("seed", "macs", "params", "dense_macs", "dense_params", "epochs")
COLUMNS = (
    *("task", "dataset", "network", "width", "seed", "method", "selection", "metric", "before_percent", "after_percent"),
    *("macs", "params", "dense_macs", "dense_params", "macs_remaining_percent", "params_remaining_percent", "kept_percent"),
    *("score_seconds", "train_seconds", "epochs", "commit", "dirty", "hardware", "finished", "latency_hardware"),
)
_REQUIRED = (*("task", "dataset", "network", "width", "seed", "method", "selection", "metric", "after_percent"), *_INTEGERS)
_BATCH = re.compile("[0-9]{1,9}")
_LARGEST = 1e15
_LATENCY = ("median_ms", "q1_ms", "q3_ms", "images_per_second")


def cell(path: str | os.PathLike, proof: Proof | None = None) -> dict:
    """Read one `<task>/seed<S>/<method>/<selection>/metrics.json` into a row of `cells.csv`; shares become percent.

    Raises:
        FgpError: a key is missing or of the wrong type, the file contradicts its own path, or `proof` refuses it.
    """
    metrics = read_metrics(path)
    parts = Path(path).parts
    said = "{task}/seed{seed}/{method}/{selection}/metrics.json".format(**metrics)
    if "/".join(parts[-5:]) != said:
        raise FgpError(f"{path}: its content belongs to {said}; delete it and run the stage that writes it again")
    if proof:
        proof.check_cell(path, metrics)
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
        "latency_hardware": None,
    }


def latencies(path: str | os.PathLike, proof: Proof | None = None) -> dict[tuple[str, ...], dict]:
    """Read one `<task>/seed<S>/latency.json`.

    Returns:
        (task, seed, method, selection) -> columns `latency_b<batch size>_median_ms`, `..._q1_ms`, `..._q3_ms`,
        `..._images_per_second` and `latency_hardware`.

    Raises:
        FgpError: the path or a key is not as described, or `proof` refuses the file.
    """
    content = read_json(path)
    task, seed = ("", "", *Path(path).parts)[-3:-1]
    if not seed.startswith("seed") or not seed.removeprefix("seed").isdigit():
        raise FgpError(f"{path}: expected a path <task>/seed<S>/latency.json")
    hardware = _hardware(_mapping(content, "provenance", path), content.get("threads"))
    rows = {}
    for network in _mapping(content, "latency", path):
        method, slash, selection = network.partition("/")
        if not slash:
            raise FgpError(f"{path}: key latency.{network}: expected <method>/<selection>")
        row = {"latency_hardware": hardware}
        for batch, numbers in _mapping(content["latency"], network, path).items():
            for name in _LATENCY:
                value = numbers.get(name) if isinstance(numbers, dict) else None
                if not _BATCH.fullmatch(batch) or type(value) not in (int, float) or not 0 <= value < _LARGEST:
                    raise FgpError(
                        f"{path}: key latency.{network}.{batch}.{name}: expected a number, found {value!r}; measure again"
                    )
                row[f"latency_b{batch}_{name}"] = value
        rows[task, seed.removeprefix("seed"), method, selection] = row
    if proof:
        proof.check_latency(path, content)
    return rows


def collect(
    metrics: Iterable[str | os.PathLike],
    latency: Iterable[str | os.PathLike] = (),
    proof: Proof | None = None,
    holes: dict[str, str] | None = None,
) -> list[dict]:
    """Join metrics and latencies into rows, sorted by task, seed, method and selection.

    Latencies of networks without a cell are left out. With `proof`, every file must belong to its configuration.
    With `holes`, a file that is missing or wrong is left out and entered there with the reason.

    Raises:
        FgpError: a file is wrong (see `cell`, `latencies`) or a cell or latency occurs twice.
    """
    rows: dict[tuple[str, ...], tuple[dict, object]] = {}
    for path in metrics:
        row = _read(cell, path, proof, holes)
        if row is None:
            continue
        key = tuple(str(row[name]) for name in KEYS)
        if key in rows:
            raise FgpError(f"{path}: the same cell as {rows[key][1]} ({_named(key)}); give it once")
        rows[key] = (row, path)
    measured: dict[tuple[str, ...], object] = {}
    for path in latency:
        for key, columns in (_read(latencies, path, proof, holes) or {}).items():
            if key in measured:
                raise FgpError(f"{path}: {_named(key)} was also measured in {measured[key]}; give one of them")
            measured[key] = path
            if key in rows:
                rows[key][0].update(columns)
    return sorted((row for row, _ in rows.values()), key=lambda row: tuple(row[name] for name in KEYS))


def _read(reader: Callable, path: str | os.PathLike, proof: Proof | None, holes: dict[str, str] | None) -> dict | None:
    try:
        return reader(path, proof)
    except FgpError as error:
        if holes is None:
            raise
        holes[str(path)] = str(error)
        return None


def files(grid: Grid, folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the metrics and the latency files of every cell of a configuration, below the folder of its run."""
    latency = [folder / task / f"seed{seed}" / "latency.json" for task in grid.config.tasks for seed in grid.seeds_of(task)]
    return [folder / cell / "metrics.json" for cell in grid.folders()], latency


def write(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """Write rows as CSV, atomically; an absent number is an empty field."""
    batches = sorted({int(name.split("_")[1][1:]) for row in rows for name in row if name.startswith("latency_b")})
    columns = [*COLUMNS, *(f"latency_b{batch}_{name}" for batch in batches for name in _LATENCY)]
    with atomic(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: str | os.PathLike) -> list[dict]:
    """Read `cells.csv` back: numbers as int or float, an empty field as None, `dirty` as bool.

    Raises:
        FgpError: the file cannot be read, lacks a column, holds a field that is no number where one belongs, or repeats a cell.
    """
    require_file(path, "write it with python -m fgp_workflow.collect")
    try:
        with open(path, newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise FgpError(f"{path}: lacks the columns {', '.join(missing)}; write it with python -m fgp_workflow.collect")
            rows = [{name: _parse(name, text, path) for name, text in row.items()} for row in reader]
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); write it with python -m fgp_workflow.collect") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise FgpError(f"{path}: not a table of cells ({error}); write it with python -m fgp_workflow.collect") from None
    seen = set()
    for row in rows:
        key = tuple(str(row[name]) for name in KEYS)
        if key in seen:
            raise FgpError(f"{path}: {_named(key)} occurs twice; collect the cells again")
        seen.add(key)
    return rows


def _parse(name: str | None, text: str | None, path: str | os.PathLike) -> object:
    if name is None or text is None:
        raise FgpError(f"{path}: a row has more or fewer fields than the header; collect the cells again")
    if not text:
        if name in _REQUIRED:
            raise FgpError(f"{path}: column {name}: a field is empty; collect the cells again")
        return None
    if name in _TEXTS:
        return text
    if name == "dirty":
        return text == "True"
    try:
        value = int(text) if name in _INTEGERS else float(text)
        if not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, OverflowError):
        raise FgpError(f"{path}: column {name}: {text!r} is no number; collect the cells again") from None


def _mapping(parent: dict, key: str, path: str | os.PathLike) -> dict:
    if not isinstance(parent.get(key), dict):
        raise FgpError(f"{path}: key {key}: expected an object; measure again")
    return parent[key]


def _named(key: Sequence[str]) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(KEYS, key, strict=True))


def _hardware(provenance: dict, threads: int | None = None) -> str | None:
    """Return one line such as "Some CPU, cpu, 1 threads" or "Some CPU, Some GPU"."""
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
    args = parser.parse_args(argv)

    def make() -> None:
        metrics, latency, proof = list(args.metrics), list(args.latency), None
        if args.config:
            grid = read_grid(args.config)
            proof = Proof(grid)
            more_metrics, more_latency = files(grid, Path(args.config).parent)
            metrics, latency = metrics + more_metrics, latency + more_latency
        if not metrics:
            raise FgpError("--metrics, --config: no metrics.json given")
        holes = {} if args.missing_ok else None
        rows = collect(metrics, latency, proof, holes)
        for reason in (holes or {}).values():
            print(f"left out: {reason}", file=sys.stderr)
        write(rows, args.out)

    return exit_status("collect", make)


if __name__ == "__main__":
    sys.exit(main())
