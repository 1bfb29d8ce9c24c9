"""How long every criterion takes to score a classification network, next to one forward pass over the same images.

See benchmarks/README.md for what is compared and how to read the result.
"""

import argparse
import csv
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy
import torch
from torch import Tensor, nn

import baselines
from fgp import data, provenance
from fgp.cli import common
from fgp.errors import FgpError
from fgp.files import atomic
from fgp.methods import Method
from fgp.models import NETWORKS, build
from fgp.train import Recipe, fit

Batch = tuple[Tensor, Tensor]
SEED = 0
IMAGES_NEEDED = {"forward", "gradient"}

WEIGHTS_ONLY = (1.0, "reads weights only; compared with a forward over all images")
ONE_BACKWARD = (2.6, "one forward and one backward through the activations; no gradients of convolution weights")
TARGETS: dict[str, tuple[float | None, str]] = {
    "fgp": ONE_BACKWARD,
    "taylor": ONE_BACKWARD,
    "taylor-bn": ONE_BACKWARD,
    "gfbs": ONE_BACKWARD,
    "group-fisher-oneshot": ONE_BACKWARD,
    "gt": (None, "one forward and one backward in training mode, of one batch, as GFBS"),
    "hrank": (None, "a matrix rank of every map; the stated 3 is for VGG-16, other networks have more and larger maps a MAC"),
    "hrank/vgg16": (3.0, "one forward and a matrix rank of every map"),
    "fpei": (None, "one forward and a histogram of 256 bins of every map: memory traffic, not arithmetic"),
    "rfc": (None, "one forward, the norm of every map, and a sort of the images for every channel"),
    "thinet": (
        None,
        "one forward, a sample of each layer's inputs, and a greedy order with a step a channel, whatever the images",
    ),
    "frs-oneshot": (None, "relevance propagation: each layer runs on positive and on negative parts, forward and backward"),
    "aofp-oneshot": (
        None,
        "log2(channels) rounds of `iterations` passes through each layer, so it grows with them; the paper has 1000",
    ),
}
"""{method, or method/network: (largest ratio or None, why)}; those that need neither forward nor gradient have `WEIGHTS_ONLY`."""

OPTIONS: dict[str, dict[str, object]] = {"aofp-oneshot": {"iterations": 10}}
"""Options of methods that would take hours with their defaults; every other method runs with its defaults."""

COLUMNS = (
    *("network", "width", "images", "batch_size", "data", "train_images", "repeats", "method", "label", "kind", "options"),
    *("images_read", "seconds", "q1", "q3", "forward_images", "forward_seconds", "ratio", "target", "within", "note"),
    *("device", "threads", "cpu", "gpu", "python", "torch", "commit", "dirty", "date"),
)
PRINTED = ("network", "method", "options", "images_read", "seconds", "forward_seconds", "ratio", "target", "within")


class Counted:
    """A re-iterable of batches that remembers how many of them were read.

    Attributes:
        read: batches handed out by the pass that went furthest.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self.read = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for count, batch in enumerate(self._batches, start=1):
            self.read = max(self.read, count)
            yield batch


@dataclass
class Timing:
    """The seconds of one method and of the forward passes before it, one entry a repeat.

    Attributes:
        images_read: images of the batches that the method asked for.
        compared: the batches of the forward pass: those read, or all where the method needs weights only.
        refusal: why the method does not score this network, else None.
        seconds: of the method.
        forward: of the forward pass.
    """

    images_read: int
    compared: Sequence[Batch]
    refusal: str | None
    seconds: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the CSV columns: quartiles in seconds, and the median over the repeats of method / forward."""
        q1, median, q3 = numpy.percentile(self.seconds, (25, 50, 75))
        ratio = numpy.median(numpy.divide(self.seconds, self.forward))
        return {"seconds": median, "q1": q1, "q3": q3, "forward_seconds": numpy.median(self.forward), "ratio": ratio}


def measure(model: nn.Module, batches: Sequence[Batch], methods: Mapping[str, ModuleType], repeats: int) -> dict[str, Timing]:
    """Time each method `repeats` times, each time right after a forward pass: forward, method 1, forward, method 2, ...

    Every method runs once ahead, unmeasured: that shows which batches it reads, and pays for imports and kernels. A method
    that raises FgpError there is not timed.

    Args:
        model: a network in eval mode.
        batches: on the network's device.
        methods: modules of baselines/ by name.
        repeats: 1 at least.
    """
    device = batches[0][0].device
    forward(model, batches)
    timings = {}
    for name, method in methods.items():
        offered, refusal = Counted(batches), None
        try:
            seconds = elapsed(device, method.score, model, offered, SEED, **OPTIONS.get(name, {}))
            report(f"{name}: {seconds:.2f} s to warm up")
        except FgpError as error:
            refusal = str(error)
            report(f"{name}: refused: {refusal}")
        compared = batches[: offered.read] if method.METHOD.needs & IMAGES_NEEDED else batches
        timings[name] = Timing(count_images(batches[: offered.read]), compared, refusal)
    for repeat in range(repeats):
        for name, timing in timings.items():
            if timing.refusal is None:
                timing.forward.append(elapsed(device, forward, model, timing.compared))
                timing.seconds.append(elapsed(device, methods[name].score, model, batches, SEED, **OPTIONS.get(name, {})))
        report(f"repeat {repeat + 1} of {repeats} done")
    return timings


@torch.no_grad()
def forward(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Run the network on the images, as a plain evaluation does."""
    for images, _ in batches:
        model(images)


def count_images(batches: Iterable[Batch]) -> int:
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


def target(name: str, network: str, facts: Method) -> tuple[float | None, str]:
    """Return the largest ratio that a method should have, None if there is none, and the reason."""
    if not facts.needs & IMAGES_NEEDED:
        return WEIGHTS_ONLY
    return TARGETS.get(f"{name}/{network}") or TARGETS.get(name, (None, "no target stated"))


def scoring_methods(names: Sequence[str] | None) -> dict[str, ModuleType]:
    """Return the methods of baselines/ that score a trained classification network: those named, or all.

    Raises:
        FgpError: a named method does not exist, or does not score such a network.
    """
    modules = {name: baselines.get(name) for name in names} if names else baselines.discover()
    fitting = {
        name: module for name, module in modules.items() if hasattr(module, "score") and "classification" in module.METHOD.tasks
    }
    if names and (others := [name for name in names if name not in fitting]):
        raise FgpError(f"--methods {others[0]}: does not score a trained classification network; leave it out")
    return fitting


def trained_network(
    name: str, width: float, dataset: data.Dataset, split: data.Split, batch_size: int, device: torch.device
) -> nn.Module:
    """Return a network after one epoch on `split`, so that its maps and gradients are not those of random weights."""
    torch.manual_seed(SEED)
    model = build(name, dataset.outputs, width).to(device)
    fit(model, split, dataset, Recipe(epochs=1, batch_size=batch_size, lr=0.02), SEED, device, label=name)
    return model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    networks = [name for name, network in NETWORKS.items() if network.task == "classification"]
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=networks,
        default=["vgg16", "resnet50"],
        metavar="NAME",
        help=f"of {', '.join(networks)} (default: vgg16 resnet50)",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: every method of baselines/ that scores")
    parser.add_argument("--data", choices=("cifar10", "digits"), help="default: cifar10 if $FGP_DATA is set, else digits (32x32)")
    parser.add_argument("--images", type=_count, default=256, metavar="N", help="images offered to each method (default: 256)")
    parser.add_argument("--batch-size", type=_count, default=64, metavar="N", help="default: 64")
    parser.add_argument("--train-images", type=_count, default=2000, metavar="N", help="of the one epoch before (default: 2000)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every channel count (default: 1)")
    parser.add_argument("--repeats", type=_count, default=3, metavar="N", help="default: 3")
    parser.add_argument("--out", metavar="FILE", help="CSV to write (default: benchmarks/results/scoring-<hardware>.csv)")
    common.add_device(parser)
    parser.set_defaults(threads=2)


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV after every network, and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, or the data are missing.
    """
    methods = scoring_methods(args.methods)
    device = common.set_up_device(args)
    origin = provenance.collect(str(device))
    hardware = origin["hardware"]
    out = Path(args.out) if args.out else Path(__file__).parent / "results" / f"scoring-{slug(hardware)}.csv"
    source = args.data or ("cifar10" if os.environ.get("FGP_DATA") else "digits")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.safetensors"
        data.prepare(source, file, train_limit=max(args.images, args.train_images), test_limit=10, seed=SEED)
        dataset = data.load(file)
        training, offered = (data.subset(dataset.train, limit=count, seed=SEED) for count in (args.train_images, args.images))
    rows = []
    for network in args.networks:
        model = trained_network(network, args.width, dataset, training, args.batch_size, device)
        batches = list(data.batches(offered, dataset, args.batch_size, device))
        setting = {
            "network": network,
            "width": args.width,
            "images": len(offered),
            "batch_size": args.batch_size,
            "data": source,
            "train_images": len(training),
            "repeats": args.repeats,
            "device": device,
            "threads": torch.get_num_threads(),
            "cpu": hardware["cpu"],
            "gpu": hardware.get("gpu"),
            "python": origin["versions"]["python"],
            "torch": origin["versions"]["torch"],
            "commit": origin["commit"],
            "dirty": origin["dirty"],
            "date": origin["finished"],
        }
        for name, timing in measure(model, batches, methods, args.repeats).items():
            rows.append(setting | row(name, network, methods[name].METHOD, timing))
        write(out, rows)
    print(table(rows))
    report(f"-> {out}")


def row(name: str, network: str, facts: Method, timing: Timing) -> dict[str, object]:
    """Return the CSV columns of one method on one network; a method that refuses has no figures."""
    described = {
        "method": name,
        "label": facts.label,
        "kind": facts.kind,
        "options": " ".join(f"{key}={value}" for key, value in OPTIONS.get(name, {}).items()),
        "images_read": timing.images_read,
        "forward_images": count_images(timing.compared),
    }
    if timing.refusal is not None:
        return described | {"note": f"refused: {timing.refusal}"}
    most, why = target(name, network, facts)
    figures = timing.figures()
    within = None if most is None else "yes" if figures["ratio"] <= most else "no"
    rounded = {column: f"{value:.4g}" for column, value in figures.items()}
    return described | rounded | {"target": most, "within": within, "note": why}


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows as CSV; columns without a value are empty."""
    with atomic(path) as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the columns `PRINTED` as a Markdown table."""
    cells = [["" if row.get(column) is None else str(row[column]) for column in PRINTED] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (PRINTED, ["---"] * len(PRINTED), *cells))


def slug(hardware: Mapping[str, object]) -> str:
    """Return the name of the GPU, or of the CPU where none is used, for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", str(hardware.get("gpu") or hardware["cpu"]).lower()).strip("-")


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except FgpError as error:
        report(f"benchmarks/scoring.py: error: {error}")
        return 1
    return 0


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 at least")
    return value


if __name__ == "__main__":
    sys.exit(main())
