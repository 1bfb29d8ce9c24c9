"""FGP's importance of segmentation networks against the number of classes present, next to one forward pass over the same images.

See benchmarks/README.md for what is compared and how to read the result.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor, nn

import fgp
from benchmarks import harness
from benchmarks.harness import SEED, Batch, Result
from benchmarks.importance import agreement, heat, outputs_of, zeros
from fgp import data
from fgp.cli import common
from fgp.errors import FgpError
from fgp.layers import convolutions
from fgp.models import build
from fgp.scoring.checks import differentiable

VOID = 255
CLASS_IN_FORWARDS = 1.3
POOL = 8
"""Images read for each one that is measured, to find those that show enough classes."""

PRINTED = (
    *("network", "alternative", "labels", "classes", "union", "backward_passes", "seconds", "ratio", "target", "within"),
    *("times_ours", "difference", "peak_mb"),
)


class Case(NamedTuple):
    """Batches in which every image shows `classes` classes; `labels`: "alike", or "different" (`showing` with `differing`)."""

    classes: int
    labels: str
    batches: Sequence[Batch]

    @property
    def ours(self) -> str:
        """What timing `fgp.score` on it is called."""
        return f"ours, {self.classes} classes, {self.labels}"


def present(labels: Tensor) -> list[list[int]]:
    """Return the classes in each of the labels (N, H, W), the one with most pixels first."""
    found = []
    for image in labels:
        classes, pixels = image[image != VOID].unique(return_counts=True)
        found.append(classes[pixels.argsort(descending=True, stable=True)].tolist())
    return found


def showing(split: data.Split, images: int, classes: int, *, differing: bool = False) -> data.Split:
    """Return the first images that show so many classes at least, with exactly so many: the other ones are made void.

    Args:
        split: segmentation images.
        images: how many.
        classes: how many in each image: those with most pixels.
        differing: those that the images before it show least.

    Raises:
        FgpError: there are fewer such images.
    """
    found = present(split.labels)
    chosen = [index for index, shown in enumerate(found) if len(shown) >= classes][:images]
    if len(chosen) < images:
        raise FgpError(f"--classes {classes}: {len(chosen)} of {len(split)} images show so many, {images} are needed; give less")
    used, labels = Counter(), split.labels[chosen]
    for index, image in zip(chosen, labels, strict=True):
        kept = sorted(found[index], key=used.__getitem__)[:classes] if differing else found[index][:classes]
        used.update(kept)
        image[~torch.isin(image, torch.tensor(kept))] = VOID
    return data.Split(split.images[chosen], labels)


def union(batches: Sequence[Batch]) -> int:
    """Return the number of different classes in a batch, summed over the batches."""
    return sum(len(labels[labels != VOID].unique()) for _, labels in batches)


def by_union(model: nn.Module, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """FGP's importance by a backward pass for every class in the batch, whichever images show it."""
    layers, scores = convolutions(model), zeros(model)
    with differentiable(model):
        for images, labels in batches:
            with outputs_of(layers) as outputs:
                logits = model(images)
            classes = labels[labels != VOID].unique().tolist()
            for number in classes:
                y = logits[:, number][labels == number].sum()
                gradients = torch.autograd.grad(y, list(outputs.values()), retain_graph=number != classes[-1])
                for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
                    scores[name] += heat(output, gradient)
    return scores


def counted(model: nn.Module, call: Callable[[], Result]) -> tuple[Result, int]:
    """Return what a call returns, and how many backward passes through the logits of `model` it makes."""
    passes = []

    def watch(_: nn.Module, __: object, logits: Tensor) -> None:
        if logits.requires_grad:
            logits.register_hook(lambda _: passes.append(1))

    handle = model.register_forward_hook(watch)
    try:
        return call(), len(passes)
    finally:
        handle.remove()


def measure(model: nn.Module, cases: Sequence[Case], repeats: int) -> list[dict[str, object]]:
    """Time `fgp.score` on every case, and the loop over the union where the images show different classes.

    Args:
        model: a segmentation network in eval mode.
        cases: of the same number of images, of one size, on the network's device.
        repeats: 1 at least.

    Returns:
        The CSV's columns, a row an alternative.

    Raises:
        FgpError: the two give different numbers.
    """
    device = cases[0].batches[0][0].device
    calls, rows = {}, {}

    def add(name: str, call: Callable[[], Result], **described: object) -> Result:
        harness.report(f"{name}: checking")
        calls[name] = call
        (scores, passes), peak = harness.peak(device, partial(counted, model, call))
        rows[name] = described | {"backward_passes": passes, "peak_mb": f"{peak:.4g}"}
        return scores

    add("forward", partial(harness.forward, model, cases[0].batches), alternative="forward")
    for case in cases:
        described = {"labels": case.labels, "classes": case.classes, "union": union(case.batches)}
        ours = add(case.ours, partial(fgp.score, model, case.batches), alternative="ours", **described)
        if case.labels == "different":
            scores = add("union loop", partial(by_union, model, case.batches), alternative="union loop", **described)
            rows["union loop"]["difference"] = agreement("union loop", scores, ours)
    timed = harness.in_turn(calls, repeats, device, warm_up=False)
    for name, row in rows.items():
        row |= harness.summary(timed[name], timed["forward"])
    for case in cases:
        row = rows[case.ours]
        row |= harness.within(float(row["ratio"]), 1 + CLASS_IN_FORWARDS * case.classes)
        if case.labels == "different":
            rows["union loop"]["times_ours"] = f"{numpy.median(numpy.divide(timed['union loop'], timed[case.ours])):.4g}"
            if row["backward_passes"] >= row["union"]:
                row["within"] = "no"
    return list(rows.values())


def classes_to_try(split: data.Split, images: int) -> list[int]:
    """Return 1, 2, 4, ... as far as `images` images of a split show so many classes."""
    counts = sorted((len(classes) for classes in present(split.labels)), reverse=True)
    return [2**power for power in range(8) if 2**power <= counts[images - 1]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    harness.add_setting(parser, "segmentation", ["segnet", "deeplabv3"], images=4, batch_size=4)
    parser.add_argument("--size", nargs=2, type=harness.count, default=(180, 240), metavar=("H", "W"), help="default: 180 240")
    parser.add_argument(
        "--classes", nargs="+", type=harness.count, metavar="D", help="classes an image shows (default: 1, 2, 4, ...)"
    )
    parser.add_argument(
        "--different", type=harness.count, default=2, metavar="D", help="and where images show different ones (default: 2)"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV after every network, and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, the data are missing, or the loop over the union does not give our numbers.
    """
    device = common.set_up_device(args)
    out = Path(args.out) if args.out else harness.results_file("segmentation", device)
    dataset = harness.training_images("segmentation", args.data, POOL * args.images, args.size)
    wanted = [(classes, "alike") for classes in args.classes or classes_to_try(dataset.train, args.images)]
    cases = []
    for classes, labels in [*wanted, (args.different, "different")]:
        split = showing(dataset.train, args.images, classes, differing=labels == "different")
        cases.append(Case(classes, labels, list(data.batches(split, dataset, args.batch_size, device))))
    described = {"images": args.images, "size": "x".join(map(str, args.size))} | harness.setting(args, dataset)
    rows = []
    for network in args.networks:
        torch.manual_seed(SEED)
        model = build(network, dataset.outputs, args.width).to(device).eval()
        measured = measure(model, cases, args.repeats)
        origin = harness.origin(device)
        rows += [{"network": network} | described | row | origin for row in measured]
        harness.write(out, rows)
    print(harness.table(rows, PRINTED))
    harness.report(f"-> {out}")
