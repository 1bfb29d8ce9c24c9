"""What the benchmarks share: data, timing alternatives in turn, peak memory, a CSV with what was measured on, a table to read."""

import argparse
import csv
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from torch import Tensor, nn

from fgp import data, provenance
from fgp.cli import common
from fgp.files import atomic
from fgp.models import NETWORKS, build
from fgp.train import Recipe, fit

Batch = tuple[Tensor, Tensor]
Result = TypeVar("Result")
RESULTS = Path(__file__).parent / "results"
SEED = 0
SOURCES = {"classification": ("cifar10", "digits"), "segmentation": ("camvid", "scenes")}
"""{task: (real data, read if $FGP_DATA is set; data that need no file)}."""


def add_setting(
    parser: argparse.ArgumentParser, task: str, networks: Sequence[str], *, images: int, batch_size: int, threads: int = 2
) -> None:
    """Add the flags of a benchmark that runs networks for `task` over images; the keywords are defaults."""
    known = [name for name, network in NETWORKS.items() if network.task == task]
    real, generated = SOURCES[task]
    flag = parser.add_argument
    flag("--networks", nargs="+", choices=known, default=networks, metavar="NAME", help=f"of {', '.join(known)}")
    flag("--data", choices=SOURCES[task], help=f"default: {real} if $FGP_DATA is set, else {generated}")
    flag("--images", type=count, default=images, metavar="N", help=f"default: {images}")
    flag("--batch-size", type=count, default=batch_size, metavar="N", help=f"default: {batch_size}")
    flag("--width", type=float, default=1.0, help="factor on every channel count (default: 1)")
    flag("--repeats", type=count, default=3, metavar="N", help="default: 3")
    flag("--out", metavar="FILE", help="CSV to write (default: below benchmarks/results/, named after the hardware)")
    common.add_device(parser)
    parser.set_defaults(threads=threads)


def add_train_images(parser: argparse.ArgumentParser, images: int) -> None:
    """Add --train-images, the images that the network learns from before it is measured."""
    parser.add_argument(
        "--train-images", type=count, default=images, metavar="N", help=f"of the one epoch before (default: {images})"
    )


def setting(args: argparse.Namespace, dataset: data.Dataset) -> dict[str, object]:
    """Return the columns that say with which flags was measured, and on which data."""
    flags = {name: getattr(args, name) for name in ("width", "batch_size", "train_images", "repeats") if hasattr(args, name)}
    return flags | {"data": dataset.source}


def count(text: str) -> int:
    """Read a whole number of at least 1, as argparse's `type`."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 at least")
    return value


def training_images(task: str, source: str | None, limit: int, size: Sequence[int] | None = None) -> data.Dataset:
    """Prepare at most `limit` training images of a data source; None: the real one of `task` if $FGP_DATA is set, else generated.

    Raises:
        FgpError: the data are missing, or `limit` or `size` (height, width) is wrong.
    """
    source = source or SOURCES[task]["FGP_DATA" not in os.environ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.safetensors"
        data.prepare(source, file, size=size, train_limit=limit, test_limit=10, seed=SEED)
        return data.load(file)


def trained_network(
    name: str, width: float, dataset: data.Dataset, limit: int, batch_size: int, device: torch.device
) -> nn.Module:
    """Return a network after one epoch on `limit` images, so that its maps and gradients are not those of random weights."""
    torch.manual_seed(SEED)
    model = build(name, dataset.outputs, width).to(device)
    split = data.subset(dataset.train, limit=limit, seed=SEED)
    fit(model, split, dataset, Recipe(epochs=1, batch_size=batch_size, lr=0.02), SEED, device, label=name)
    return model


@torch.no_grad()
def forward(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Run the network on the images, as a plain evaluation does."""
    for images, _ in batches:
        model(images)


def image_count(batches: Iterable[Batch]) -> int:
    """Return the number of images in `batches`."""
    return sum(len(images) for images, _ in batches)


def elapsed(device: torch.device, function: Callable[..., object], *arguments: object, **options: object) -> float:
    """Return the seconds that a call takes, with those of the kernels that it launches on `device`."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    function(*arguments, **options)
    return now() - start


def in_turn(
    alternatives: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Time each alternative `repeats` times, one after the other in every round, so that a slow spell hits all alike.

    Args:
        alternatives: what to call, by name.
        repeats: rounds.
        device: where they compute.
        warm_up: run each once ahead, unmeasured: that pays for imports, caches and kernels. False: the caller did.

    Returns:
        {name: seconds of every round}.
    """
    if warm_up:
        for name, function in alternatives.items():
            report(f"{name}: {elapsed(device, function):.2f} s to warm up")
    seconds = {name: [] for name in alternatives}
    for repeat in range(repeats):
        for name, function in alternatives.items():
            seconds[name].append(elapsed(device, function))
        report(f"repeat {repeat + 1} of {repeats} done")
    return seconds


def summary(seconds: Sequence[float], against: Sequence[float]) -> dict[str, str]:
    """Return the columns seconds, q1, q3 (quartiles) and ratio: median over the rounds of seconds / those of `against`."""
    q1, median, q3 = numpy.percentile(seconds, (25, 50, 75))
    ratio = numpy.median(numpy.divide(seconds, against))
    return {name: f"{value:.4g}" for name, value in (("seconds", median), ("q1", q1), ("q3", q3), ("ratio", ratio))}


def within(value: float, target: float | None, *, at_least: bool = False) -> dict[str, object]:
    """Return the columns target and within: "yes" or "no"; both None where there is no target."""
    met = None if target is None else value >= target if at_least else value <= target
    return {"target": target, "within": None if met is None else "yes" if met else "no"}


def peak(device: torch.device, function: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a call returns, and the peak of the memory that torch had allocated meanwhile, in MB above the start.

    Counted is what torch allocates on `device`, tensors and the workspaces of its kernels; not numpy's arrays, nor what libraries
    allocate by themselves. On the CPU the call runs under torch's profiler: do not time it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        result = function()
        return result, (torch.cuda.max_memory_allocated(device) - start) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return result, max(0, *numpy.cumsum(steps)) / 1e6 if steps else 0.0


def origin(device: torch.device) -> dict[str, object]:
    """Return the columns that say what was measured on, and by which code."""
    found = provenance.collect(str(device))
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "cpu": found["hardware"]["cpu"],
        "gpu": found["hardware"].get("gpu"),
        "python": found["versions"]["python"],
        "torch": found["versions"]["torch"],
        "commit": found["commit"],
        "dirty": found["dirty"],
        "date": found["finished"],
    }


def results_file(benchmark: str, device: torch.device) -> Path:
    """Return where the CSV of a benchmark goes: its name, and that of the GPU, or of the CPU and its threads."""
    found = origin(device)
    where = found["gpu"] or f"{found['cpu']} {found['threads']} threads"
    return RESULTS / f"{benchmark}-{re.sub(r'[^a-z0-9]+', '-', where.lower()).strip('-')}.csv"


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows as CSV: all columns in the order of their first appearance, empty where a row has no value."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Return some columns as a Markdown table."""
    cells = [["" if row.get(column) is None else str(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells))


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)
