"""How long every criterion takes to score a classification network, next to one forward pass over the same images.

See benchmarks/README.md for what is compared and how to read the result.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy
from torch import nn

import baselines
from benchmarks import harness
from benchmarks.harness import SEED, Batch
from fgp import data
from fgp.cli import common
from fgp.errors import FgpError
from fgp.methods import Method

IMAGES_NEEDED = {"forward", "gradient"}

WEIGHTS_ONLY = (1.0, "reads weights only; compared with a forward over all images")
ONE_BACKWARD = "one forward and one backward through the activations; no gradients of convolution weights"
TARGETS: dict[str, tuple[float | None, str]] = {
    "fgp": (2.3, ONE_BACKWARD),
    "taylor": (2.6, ONE_BACKWARD),
    "taylor-bn": (2.6, ONE_BACKWARD),
    "gfbs": (2.6, ONE_BACKWARD),
    "group-fisher-oneshot": (2.6, ONE_BACKWARD),
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

FIGURES = ("seconds", "q1", "q3", "forward_images", "forward_seconds", "ratio", "target", "within", "note")
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
    harness.forward(model, batches)
    timings, alternatives = {}, {}
    for name, method in methods.items():
        score, offered, refusal = partial(method.score, model, seed=SEED, **OPTIONS.get(name, {})), Counted(batches), None
        try:
            harness.report(f"{name}: {harness.elapsed(device, score, batches=offered):.2f} s to warm up")
        except FgpError as error:
            refusal = str(error)
            harness.report(f"{name}: refused: {refusal}")
        compared = batches[: offered.read] if method.METHOD.needs & IMAGES_NEEDED else batches
        timing = timings[name] = Timing(harness.image_count(batches[: offered.read]), compared, refusal)
        if refusal is None:
            alternatives[f"forward before {name}"] = partial(harness.forward, model, timing.compared)
            alternatives[name] = partial(score, batches=batches)
    for name, seconds in harness.in_turn(alternatives, repeats, device, warm_up=False).items():
        if name in timings:
            timings[name].seconds = seconds
        else:
            timings[name.removeprefix("forward before ")].forward = seconds
    return timings


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    harness.add_setting(parser, "classification", ["vgg16", "resnet50"], images=256, batch_size=64)
    harness.add_train_images(parser, 2000)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: every method of baselines/ that scores")


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV after every network, and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, or the data are missing.
    """
    methods = scoring_methods(args.methods)
    device = common.set_up_device(args)
    out = Path(args.out) if args.out else harness.results_file("criteria", device)
    dataset = harness.training_images("classification", args.data, max(args.images, args.train_images))
    offered = data.subset(dataset.train, limit=args.images, seed=SEED)
    batches = list(data.batches(offered, dataset, args.batch_size, device))
    rows = []
    for network in args.networks:
        model = harness.trained_network(network, args.width, dataset, args.train_images, args.batch_size, device)
        setting = {"network": network, "images": len(offered)} | harness.setting(args, dataset)
        timings = measure(model, batches, methods, args.repeats)
        origin = harness.origin(device)
        rows += [setting | row(name, network, methods[name].METHOD, timing) | origin for name, timing in timings.items()]
        harness.write(out, rows)
    print(harness.table(rows, PRINTED))
    harness.report(f"-> {out}")


def row(name: str, network: str, facts: Method, timing: Timing) -> dict[str, object]:
    """Return the CSV columns of one method on one network; a method that refuses has no figures."""
    described = {
        "method": name,
        "label": facts.label,
        "kind": facts.kind,
        "options": " ".join(f"{key}={value}" for key, value in OPTIONS.get(name, {}).items()),
        "images_read": timing.images_read,
        **dict.fromkeys(FIGURES),
        "forward_images": harness.image_count(timing.compared),
    }
    if timing.refusal is not None:
        return described | {"note": f"refused: {timing.refusal}"}
    most, why = target(name, network, facts)
    figures = harness.summary(timing.seconds, timing.forward)
    forward_seconds = {"forward_seconds": f"{numpy.median(timing.forward):.4g}"}
    return described | figures | forward_seconds | harness.within(float(figures["ratio"]), most) | {"note": why}
