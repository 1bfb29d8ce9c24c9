"""Training by the CIFAR recipe: the plain PyTorch way against ours, with the accuracy that each speed gave.

The recipe is the paper's (SGD, batches of 128, random crop and flip); a short run has fewer epochs. See benchmarks/README.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import harness
from fgp import data
from fgp.cli import common
from fgp.errors import FgpError
from fgp.evaluate import evaluate
from fgp.models import NETWORKS, build
from fgp.train import Recipe, fit
from fgp.train.engine import Engine

PLAIN = "plain"
ENGINES = {
    "fp32": Engine(precision="fp32", launch="eager"),
    "bf16": Engine(precision="bf16", launch="eager"),
    "fp32-graph": Engine(precision="fp32", launch="graph"),
    "bf16-graph": Engine(precision="bf16", launch="graph"),
    "bf16-graph-compile": Engine(precision="bf16", launch="graph", compile=True),
    "fp32-compile": Engine(precision="fp32", launch="eager", compile=True),
}
DEFAULT = {"cpu": (PLAIN, "fp32"), "cuda": (PLAIN, "fp32", "bf16", "fp32-graph", "bf16-graph")}
TARGETS = {("cpu", "vgg16"): 1.0, ("cpu", "resnet50"): 1.0, ("cuda", "vgg16"): 5.0, ("cuda", "resnet50"): 3.0}
"""{(device, network): least ratio of our default's images a second to those of plain PyTorch}."""

PRINTED = (
    "network",
    "alternative",
    "images_per_second",
    "ratio",
    "target",
    "within",
    "top1",
    "top1_std",
    "difference",
    "difference_std",
)


class Images(torch.utils.data.Dataset):
    """Images and labels as torchvision.datasets.CIFAR10 hands them out: a PIL image through the transform, an int."""

    def __init__(self, split: data.Split, transform: Callable) -> None:
        self._images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels, self._transform = split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def train_plainly(
    model: nn.Module, dataset: data.Dataset, recipe: Recipe, seed: int, device: torch.device, workers: int
) -> list[float]:
    """Train as PyTorch's tutorials do: torchvision's transforms in DataLoader workers, float32, SGD, a scheduler an epoch.

    Returns:
        Seconds of every epoch.
    """
    augmentation = [transforms.RandomCrop(dataset.train.images.shape[-1], recipe.crop_padding)] if recipe.crop_padding else []
    augmentation += [transforms.RandomHorizontalFlip()] if recipe.flip else []
    transform = transforms.Compose([*augmentation, transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)])
    torch.manual_seed(seed)
    loader = DataLoader(
        Images(dataset.train, transform),
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    model.to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, recipe.milestones, recipe.gamma)
    seconds = []
    for _ in range(recipe.epochs):
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            optimiser.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimiser.step()
            total += loss.detach()
        scheduler.step()
        float(total)
        seconds.append(time.perf_counter() - start)
    return seconds


def recipe_of(epochs: int, batch_size: int, lr: float) -> Recipe:
    """Return the paper's recipe for CIFAR with its milestones at half and at three quarters of `epochs`."""
    milestones = tuple(dict.fromkeys(max(1, round(share * epochs)) for share in (0.5, 0.75)))
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=5e-4,
        schedule="multistep",
        milestones=milestones,
        crop_padding=4,
        flip=True,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    networks = [name for name, network in NETWORKS.items() if network.task == "classification"]
    parser.add_argument("--networks", nargs="+", choices=networks, default=["vgg16", "resnet50"], metavar="NAME")
    parser.add_argument(
        "--alternatives",
        nargs="+",
        choices=(PLAIN, *ENGINES),
        metavar="NAME",
        help=f"of {PLAIN} and {', '.join(ENGINES)} (default: plain and fp32 on the CPU, all but compiled ones on a GPU)",
    )
    parser.add_argument("--data", choices=("cifar10", "digits"), default="cifar10", help="cifar10 (default) needs $FGP_DATA")
    parser.add_argument("--width", type=float, help="factor on every channel count (default: 0.25 on the CPU, 1 on a GPU)")
    parser.add_argument("--images", type=int, help="training images (default: 2560 on the CPU, all on a GPU)")
    parser.add_argument("--epochs", type=int, default=4, help="the first is not timed (default: 4)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each alternative (default: 3)")
    parser.add_argument("--workers", type=int, help="of the plain way's DataLoader (default: the number of cores)")
    parser.add_argument("--out", metavar="FILE", help="CSV to write (default: benchmarks/results/training-<hardware>.csv)")
    common.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Train by every alternative in turn, seed by seed; write the CSV and print the table.

    Raises:
        FgpError: fewer than two epochs, or the data are missing.
    """
    if args.epochs < 2:
        raise FgpError("--epochs: the first epoch is not timed; give 2 at least")
    device = common.set_up_device(args)
    cpu = device.type == "cpu"
    width = args.width or (0.25 if cpu else 1.0)
    recipe = recipe_of(args.epochs, args.batch_size, args.lr)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.safetensors"
        data.prepare(args.data, file, size=32, train_limit=args.images or (2560 if cpu else None), seed=0)
        dataset = data.load(file)
    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    alternatives = args.alternatives or DEFAULT[device.type]
    rows = []
    for network in args.networks:
        seconds, top1 = {name: [] for name in alternatives}, {name: [] for name in alternatives}
        for seed in range(args.seeds):
            for name in alternatives:
                torch.manual_seed(seed)
                model = build(network, dataset.outputs, width)
                if name == PLAIN:
                    durations = train_plainly(model, dataset, recipe, seed, device, workers)
                else:
                    durations = fit(
                        model, dataset.train, dataset, recipe, seed, device, engine=ENGINES[name], label=name
                    ).durations
                seconds[name] += durations[1:]
                top1[name].append(evaluate(model, dataset.test, dataset, device, 500))
                harness.report(f"{network} seed {seed} {name}: {min(durations):.2f} s an epoch, top-1 {top1[name][-1]:.2f} %")
        setting = {
            "network": network,
            "width": width,
            "data": args.data,
            "images": len(dataset.train),
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "lr": args.lr,
            "seeds": args.seeds,
            "workers": workers,
        }
        for name in alternatives:
            figures = row(name, network, device.type, len(dataset.train), seconds, top1)
            rows.append({**setting, **figures, **harness.origin(device)})
        harness.write(Path(args.out) if args.out else harness.results_file("training", device), rows)
    print(harness.table(rows, PRINTED))


def row(
    name: str, network: str, device: str, images: int, seconds: dict[str, list[float]], top1: dict[str, list[float]]
) -> dict[str, object]:
    """Return the columns of one alternative.

    Args:
        name: of the alternative.
        network: its name.
        device: "cpu" or "cuda".
        images: of an epoch.
        seconds: of the timed epochs, by alternative.
        top1: percent, one a seed, by alternative.
    """
    figures: dict[str, object] = {"alternative": name, "images_per_second": f"{images / numpy.median(seconds[name]):.0f}"}
    if PLAIN in seconds:
        ratio = float(numpy.median(numpy.divide(seconds[PLAIN], seconds[name])))
        figures["ratio"] = f"{ratio:.3g}"
        if name == ("fp32" if device == "cpu" else "bf16-graph"):
            least = TARGETS.get((device, network))
            figures |= {"target": least, "within": None if least is None else "yes" if ratio >= least else "no"}
    against = numpy.subtract(top1[name], top1[PLAIN if PLAIN in top1 else next(iter(top1))])
    for column, values in (("top1", top1[name]), ("difference", against)):
        figures[column] = f"{numpy.mean(values):.2f}"
        figures[f"{column}_std"] = f"{numpy.std(values, ddof=1):.2f}" if len(values) > 1 else None
    return figures
