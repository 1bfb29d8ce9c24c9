"""FGP's importance of every layer for the own class of every image, next to a forward pass and to other ways of computing it.

See benchmarks/README.md for what is compared and how to read the result.
"""

import argparse
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy
import torch
from torch import Tensor, nn

import fgp
from benchmarks import harness
from benchmarks.harness import SEED, Batch
from fgp import data
from fgp.cli import common
from fgp.errors import FgpError
from fgp.layers import convolutions
from fgp.scoring.checks import differentiable

Scores = dict[str, Tensor]

MOST_FORWARDS = 2.3
LEAST_SPEEDUP = 40
TOLERANCE = 0.01
"""Largest difference to `fgp.score` that is taken for rounding in float32, as a share of the layer's largest score."""

LITERAL = ("literal", "literal to the layer")
PACKAGES = ("captum", "grad-cam")
PRINTED = (
    *("network", "alternative", "images", "seconds_per_image", "ratio", "times_ours", "target", "within"),
    *("difference", "peak_mb"),
)


def zeros(model: nn.Module) -> Scores:
    """Return a score of 0 for every channel of every convolution, on the network's device."""
    return {name: layer.weight.new_zeros(layer.out_channels) for name, layer in convolutions(model).items()}


@contextmanager
def outputs_of(layers: Mapping[str, nn.Conv2d]) -> Iterator[dict[str, Tensor]]:
    """Collect the output (N, C, H, W) of each layer in a forward pass; the graph starts at those that no gradient reaches.

    For networks that do not write into the outputs of their convolutions.
    """
    outputs = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output if output.requires_grad else output.requires_grad_()

    handles = [layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def heat(feature: Tensor, gradient: Tensor) -> Tensor:
    """Return the sum of the heat maps ReLU(alpha F) over images and positions, (C,), from F and dy/dF, (N, C, H, W) each."""
    alpha = gradient.mean((2, 3), keepdim=True)
    return (alpha * feature.detach()).relu().sum((0, 2, 3))


def backward(model: nn.Module, batches: Sequence[Batch]) -> None:
    """One forward and one backward to the first convolution's output, so through those of all; nothing is computed from them."""
    first_layer = dict([next(iter(convolutions(model).items()))])
    for images, labels in batches:
        with differentiable(model), outputs_of(first_layer) as outputs:
            own = model(images).gather(1, labels[:, None])
            torch.autograd.grad(own.sum(), list(outputs.values()))


def literal(model: nn.Module, batches: Sequence[Batch], *, to_layer: bool = False) -> Scores:
    """The paper's procedure: for every image and layer a forward, a backward from the logit of its class, and the heat maps.

    The backward is `logit.backward()`, as Grad-CAM is usually written; with `to_layer` it ends at the layer, without the weights.
    """
    scores = zeros(model)
    for images, labels in batches:
        for image, label in zip(images.split(1), labels, strict=True):
            for name, layer in convolutions(model).items():
                with outputs_of({name: layer}) as outputs:
                    logit = model(image)[0, label]
                feature = outputs[name]
                if to_layer:
                    (gradient,) = torch.autograd.grad(logit, feature)
                else:
                    feature.retain_grad()
                    model.zero_grad()
                    logit.backward()
                    gradient = feature.grad
                scores[name] += heat(feature, gradient)
    model.zero_grad()
    return scores


def captum(model: nn.Module, batches: Sequence[Batch]) -> Scores:
    """captum's LayerGradCam, one layer after the other, its maps not summed over the channels."""
    attr = _imported("captum.attr", "captum")
    scores = zeros(model)
    for name, layer in convolutions(model).items():
        method = attr.LayerGradCam(model, layer)
        for images, labels in batches:
            maps = method.attribute(images, labels, relu_attributions=True, attr_dim_summation=False)
            scores[name] += maps.detach().sum((0, 2, 3))
    return scores


def grad_cam(model: nn.Module, batches: Sequence[Batch], *, at_once: bool = False) -> Scores:
    """pytorch-grad-cam's GradCAM, one layer after the other or all layers of a batch in one call.

    Its forward, backward and channel weights are the package's; then, where it would add the channels up and resize the sum to
    the image, the maps of the channels are rectified and summed over the positions.
    """
    package = _imported("pytorch_grad_cam", "grad-cam")
    targets = _imported("pytorch_grad_cam.utils.model_targets", "grad-cam")

    class PerChannel(package.GradCAM):
        def compute_cam_per_layer(self, images: Tensor, wanted: list, _: bool) -> list[numpy.ndarray]:
            stored = self.activations_and_grads
            sums = []
            for layer, feature, gradient in zip(self.target_layers, stored.activations, stored.gradients, strict=True):
                weights = self.get_cam_weights(images, layer, wanted, feature.numpy(), gradient.numpy())
                sums.append(numpy.maximum(weights[:, :, None, None] * feature.numpy(), 0).sum((0, 2, 3)))
            return sums

        def aggregate_multi_layers(self, sums: list[numpy.ndarray]) -> list[numpy.ndarray]:
            return sums

    layers, scores = convolutions(model), zeros(model)
    for names in [list(layers)] if at_once else [[name] for name in layers]:
        with PerChannel(model, [layers[name] for name in names]) as cam:
            for images, labels in batches:
                sums = cam(images, [targets.ClassifierOutputTarget(label) for label in labels.tolist()])
                for name, values in zip(names, sums, strict=True):
                    scores[name] += torch.from_numpy(values).to(scores[name])
    model.zero_grad()
    return scores


ALTERNATIVES: dict[str, Callable[[nn.Module, Sequence[Batch]], Scores | None]] = {
    "forward": harness.forward,
    "backward": backward,
    "ours": fgp.score,
    "literal": literal,
    "literal to the layer": partial(literal, to_layer=True),
    "captum": captum,
    "pytorch-grad-cam": grad_cam,
    "pytorch-grad-cam at once": partial(grad_cam, at_once=True),
}


def _imported(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FgpError(f'{package}: {error}; install it, pip install -e ".[dev]", or pass --alternatives without it') from None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def first(batches: Sequence[Batch], images: int) -> list[Batch]:
    """Return the first `images` images, in the same batches as far as they are whole."""
    taken = []
    for pictures, labels in batches:
        if images > 0:
            taken.append((pictures[:images], labels[:images]))
        images -= len(pictures)
    return taken


def agreement(name: str, scores: Scores, expected: Scores) -> str:
    """Return the largest difference of two scores of a channel, as a share of the largest score expected in its layer.

    Raises:
        FgpError: it is above `TOLERANCE`.
    """
    worst = 0.0
    for layer, wanted in expected.items():
        most = wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
        worst = max(worst, float((scores[layer].cpu() - wanted).abs().max() / most))
    if not worst <= TOLERANCE:
        raise FgpError(f"{name}: a score differs from fgp.score's by {worst:.2g} of its layer's largest; nothing to compare")
    return f"{worst:.1e}"


def measure(model: nn.Module, parts: Mapping[str, Sequence[Batch]], repeats: int) -> list[dict[str, object]]:
    """Check that every alternative gives the importance of `fgp.score`, then time them in turn.

    Args:
        model: a network in eval mode.
        parts: {a name of `ALTERNATIVES`: the batches that it gets, on the network's device}; "forward" and "ours" among them.
        repeats: 1 at least.

    Returns:
        The CSV's columns, a row an alternative.

    Raises:
        FgpError: an alternative gives other numbers, or its package is missing.
    """
    device = next(iter(parts.values()))[0][0].device
    calls = {name: partial(ALTERNATIVES[name], model, part) for name, part in parts.items()}
    harness.forward(model, parts["forward"])
    rows = {}
    for name, part in parts.items():
        harness.report(f"{name}: checking")
        scores, peak = harness.peak(device, calls[name])
        rows[name] = {
            "alternative": name,
            "images": harness.image_count(part),
            "batch_size": 1 if name in LITERAL else len(part[0][0]),
            "peak_mb": f"{peak:.4g}",
            "difference": None,
        }
        if scores and name != "ours":
            rows[name]["difference"] = agreement(name, scores, fgp.score(model, part))
    timed = harness.in_turn(calls, repeats, device, warm_up=False)
    seconds = {name: numpy.divide(timed[name], rows[name]["images"]) for name in parts}
    for name, row in rows.items():
        figures = harness.summary(seconds[name], seconds["forward"])
        times_ours = numpy.median(seconds[name] / seconds["ours"])
        row |= {"seconds_per_image": figures.pop("seconds")} | figures | {"times_ours": f"{times_ours:.4g}"}
        if name == "literal":
            row |= harness.within(times_ours, LEAST_SPEEDUP, at_least=True)
        else:
            row |= harness.within(float(figures["ratio"]), MOST_FORWARDS if name == "ours" else None)
    return list(rows.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    harness.add_setting(parser, "classification", ["vgg16", "resnet50"], images=64, batch_size=32)
    harness.add_train_images(parser, 256)
    for flag, images, which in (("literal", 2, "the literal procedure"), ("package", 8, "captum and pytorch-grad-cam")):
        parser.add_argument(
            f"--{flag}-images", type=harness.count, default=images, metavar="N", help=f"of them for {which} (default: {images})"
        )
    parser.add_argument(
        "--alternatives",
        nargs="+",
        choices=ALTERNATIVES,
        default=list(ALTERNATIVES),
        metavar="NAME",
        help=f"beside forward and ours, of {', '.join(ALTERNATIVES)} (default: all)",
    )


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV after every network, and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, data or a package are missing, or an alternative does not give our numbers.
    """
    device = common.set_up_device(args)
    out = Path(args.out) if args.out else harness.results_file("importance", device)
    dataset = harness.training_images("classification", args.data, max(args.images, args.train_images))
    offered = data.subset(dataset.train, limit=args.images, seed=SEED)
    batches = list(data.batches(offered, dataset, args.batch_size, device))
    fewer = dict.fromkeys(ALTERNATIVES, args.package_images) | dict.fromkeys(LITERAL, args.literal_images)
    fewer |= dict.fromkeys(("forward", "backward", "ours"), args.images)
    parts = {name: first(batches, fewer[name]) for name in ALTERNATIVES if name in {"forward", "ours", *args.alternatives}}
    rows = []
    for network in args.networks:
        model = harness.trained_network(network, args.width, dataset, args.train_images, args.batch_size, device)
        measured = measure(model, parts, args.repeats)
        origin = harness.origin(device) | {package: _version(package) for package in PACKAGES}
        rows += [{"network": network} | harness.setting(args, dataset) | row | origin for row in measured]
        harness.write(out, rows)
    print(harness.table(rows, PRINTED))
    harness.report(f"-> {out}")
