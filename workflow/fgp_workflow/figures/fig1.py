"""Figure 1: FGP's heat maps M[n,c,d] of single channels by class, with the channels that stay and those that go.

Rows are channels of one layer, half of them kept (highest scores) and half removed (lowest); columns are classes, each with one
training image. Loads torch.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

import fgp.data
from fgp.checkpoint import load
from fgp.data.dataset import Dataset, Split
from fgp.errors import FgpError
from fgp.plans import load_plan
from fgp.scoring import heatmaps
from fgp.scoring.files import load_scores
from fgp_workflow.figures import style

SMALLEST = 8


@dataclass(frozen=True)
class Channel:
    """A row: index in the layer, whether it stays, and its share of the layer's scores in percent."""

    index: int
    kept: bool
    share: float


@dataclass(frozen=True)
class Data:
    """What is drawn: `images` uint8 (classes, H, W, 3) and `maps` float (channels, classes, h, w)."""

    layer: str
    titles: tuple[str, ...]
    images: np.ndarray
    channels: tuple[Channel, ...]
    maps: np.ndarray


def read(
    data: str | os.PathLike,
    weights: str | os.PathLike,
    plan: str | os.PathLike,
    scores: str | os.PathLike,
    classes: int,
    channels: int,
    layer: str | None,
) -> Data:
    """Read the four files and choose what to draw; see `prepare`."""
    return prepare(fgp.data.load(data), load(weights), load_plan(plan).plan, load_scores(scores)[0], classes, channels, layer)


def prepare(
    dataset: Dataset,
    model: nn.Module,
    plan: Mapping[str, Sequence[int]],
    scores: Mapping[str, Tensor],
    classes: int,
    channels: int,
    layer: str | None = None,
) -> Data:
    """Compute the heat maps of `channels` channels of one layer for the first `classes` classes.

    Without `layer`, the deepest layer of the plan is taken that keeps and removes enough channels and whose maps have at least
    8 x 8 positions; else the first that keeps and removes enough.

    Raises:
        FgpError: too few classes or channels are asked for or there; the layer is not in the plan.
    """
    if not 1 <= classes <= len(dataset.classes):
        raise FgpError(f"--classes {classes}: the data set has {len(dataset.classes)}; give 1 to {len(dataset.classes)}")
    if channels < 2:
        raise FgpError(f"--channels {channels}: give at least 2, one kept and one removed")
    chosen = torch.tensor([_example(dataset.train, d, dataset.classes[d]) for d in range(classes)])
    split = Split(dataset.train.images[chosen], dataset.train.labels[chosen])
    images = list(fgp.data.batches(split, dataset, 1, next(model.parameters()).device))
    model.eval()
    usable = [name for name in plan if _enough(len(plan[name]), len(scores[name]), channels)]
    if layer is None:
        layer = _deepest(model, images[0][0], usable)
    if layer not in usable:
        raise FgpError(f"--layer {layer}: keeps or removes too few channels for --channels {channels}, or none; try {usable}")
    rows = _rows(plan[layer], scores[layer], channels)
    maps = [heatmaps(model, image, label, layer)[0, [row.index for row in rows], d] for d, (image, label) in enumerate(images)]
    shown = split.images.permute(0, 2, 3, 1).numpy()
    return Data(layer, tuple(dataset.classes[:classes]), shown, rows, torch.stack(maps, 1).cpu().numpy())


def _example(split: Split, d: int, name: str) -> int:
    """Return the first image of class d; in segmentation, that of the first hundred with the most pixels of it."""
    if split.labels.ndim == 1:
        found = (split.labels == d).nonzero()[:1, 0]
    else:
        pixels = (split.labels[:100] == d).flatten(1).sum(1)
        found = pixels.argmax()[None] if pixels.any() else pixels[:0]
    if not len(found):
        raise FgpError(f"--classes: no training image of class {d} ({name}); ask for fewer classes")
    return int(found[0])


def _enough(kept: int, total: int, channels: int) -> bool:
    return kept >= -(-channels // 2) and total - kept >= channels // 2


def _deepest(model: nn.Module, image: Tensor, layers: Sequence[str]) -> str:
    if not layers:
        raise FgpError("--channels: no layer of the plan keeps and removes that many; ask for fewer")
    sizes: dict[str, int] = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: sizes.update({name: min(output.shape[2:])}))
        for name in layers
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return ([name for name in layers if sizes[name] >= SMALLEST] or layers[:1])[-1]


def _rows(kept: Sequence[int], scores: Tensor, channels: int) -> tuple[Channel, ...]:
    """Return the best kept and the worst removed channels, best first."""
    order = sorted(range(len(scores)), key=lambda c: (-scores[c].item(), c))
    stays = [c for c in order if c in set(kept)][: -(-channels // 2)]
    goes = [c for c in order if c not in set(kept)][-(channels // 2) :]
    total = scores.double().sum().item() or 1.0
    return tuple(Channel(c, c in stays, 100 * scores[c].item() / total) for c in [*stays, *goes])


def draw(data: Data) -> Figure:
    """Draw the images above their heat maps: green frames stay, red dashed ones go; all maps share one colour scale."""
    rows, columns = len(data.channels) + 1, len(data.titles)
    side = min(0.6, 2.4 / columns)
    figure, axes = style.subplots(rows * (max(side, 0.3) + 0.05) + 0.5, rows, columns, squeeze=False)
    norm = PowerNorm(0.5, 0, float(np.quantile(data.maps, 0.999)) or 1.0)
    for axis, title, image in zip(axes[0], data.titles, data.images, strict=True):
        axis.imshow(image)
        axis.set_title(title, rotation=45 if columns > 4 else 0)
    for line, channel, maps in zip(axes[1:], data.channels, data.maps, strict=True):
        for axis, values in zip(line, maps, strict=True):
            axis.imshow(values, norm=norm, cmap="magma", interpolation="nearest")
            for spine in axis.spines.values():
                spine.set(visible=True, linewidth=1.2, color=style.GREEN if channel.kept else style.VERMILION)
                spine.set_linestyle("-" if channel.kept else "--")
        word = "kept" if channel.kept else "removed"
        text = f"channel {channel.index}\n{word}, {channel.share:.2g} %"
        line[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f"{data.layer}; % of the layer's scores", fontsize=7)
    return figure
