"""`prepare`: a data source in, one safetensors file out."""

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fgp import provenance
from fgp.data import choose
from fgp.data.camvid import camvid
from fgp.data.cifar import cifar10, cifar100
from fgp.data.cityscapes import cityscapes
from fgp.data.decode import fit
from fgp.data.digits import digits
from fgp.data.folders import folder
from fgp.data.header import VOID
from fgp.data.scenes import scenes
from fgp.data.source import Part, Request, Sample, Source
from fgp.data.writer import SafetensorsWriter
from fgp.errors import FgpError
from fgp.files import atomic

SOURCES: dict[str, Callable[[Request], Source]] = {
    "digits": digits,
    "scenes": scenes,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "camvid": camvid,
    "cityscapes": cityscapes,
}
KNOWN = {
    "digits": ("classification", 10),
    "scenes": ("segmentation", 11),
    "cifar10": ("classification", 10),
    "cifar100": ("classification", 100),
    "camvid": ("segmentation", 11),
    "cityscapes": ("segmentation", 19),
}
"""Task and number of classes of `SOURCES`; an image folder is for classification, its classes are known when it is read."""
MOST_PIXELS = 1 << 14
"""Longest side of an image."""
_FOLDER = "folder:"
_WORKERS = min(4, os.cpu_count() or 1)
_AT_ONCE = 32
_SMALLEST_STD = 1 / 255


def prepare(
    source: str,
    out: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    size: int | Sequence[int] | None = None,
    classes: int | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> None:
    """Read a data source and write it as one safetensors file, which `fgp.data.load` opens.

    The file holds `train.images`, `test.images` (uint8 (N, 3, H, W)), `train.labels`, `test.labels` (uint8 (N,) or (N, H, W);
    int64 (N,) for more than 256 classes) and a metadata entry `fgp`. Images keep the source's order (image folders: by class).

    Args:
        source: a name in `SOURCES`, or "folder:<name>" for an image folder below the root.
        out: file to write; appears only when it is complete.
        root: the data root (default: $FGP_DATA); `digits` and `scenes` need none.
        size: resize images to (H, W) or to a square of this side; label maps follow, to the nearest pixel.
        classes: keep the first so many classes (classification); for `scenes` the first so many digits, and the background.
        train_limit, test_limit: keep at most so many images, chosen by `seed`, balanced over the classes (classification). For
            `scenes`, how many are generated.
        seed: seed of the limits and of generated images.
        download: fetch missing files into the root (cifar10, cifar100, camvid).

    Raises:
        FgpError: an argument is wrong, or the files are missing, damaged or not laid out as documented.
    """
    size = _checked_size(size)
    if seed < 0:
        raise FgpError(f"seed {seed}: must be 0 or more")
    for name, limit in (("train_limit", train_limit), ("test_limit", test_limit)):
        if limit is not None and limit < 1:
            raise FgpError(f"{name} {limit}: must be at least 1")
    root = root or os.environ.get("FGP_DATA")
    request = Request(Path(root) if root else None, size, classes, seed, train_limit, test_limit, download)
    found = _build(source, request)
    parts = {"train": found.train, "test": found.test}
    limits = {"train": train_limit, "test": test_limit}
    kept = _first_classes(found, classes)
    indices = {split: _chosen(part, kept, limits[split], seed) for split, part in parts.items()}
    metadata = {
        "source": source,
        "task": found.task,
        "classes": list(found.classes[:kept]),
        "outputs": found.outputs if kept == len(found.classes) else kept,
        "mean": [0.0] * 3,
        "std": [0.0] * 3,
        "void": VOID,
        "options": {
            "size": size,
            "classes": classes,
            "train_limit": train_limit,
            "test_limit": test_limit,
            "seed": seed,
        },
        "counts": {split: len(chosen) for split, chosen in indices.items()},
        "provenance": provenance.collect(),
    }
    _write(Path(out), parts, indices, size or found.default_size, metadata)


def _checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size,) if isinstance(size, int) else tuple(size)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and 1 <= side <= MOST_PIXELS for side in sides):
        raise FgpError(f"size {size}: expected one side or height and width, each from 1 to {MOST_PIXELS} pixels")
    return (sides[0], sides[-1])


def _build(source: str, request: Request) -> Source:
    if source in SOURCES:
        return SOURCES[source](request)
    name = source.removeprefix(_FOLDER)
    if source.startswith(_FOLDER) and name and "/" not in name and "\\" not in name and name not in (".", ".."):
        return folder(request, name)
    if source.startswith(_FOLDER):
        raise FgpError(f"source {source!r}: after {_FOLDER} comes the name of a folder or zip directly below the root")
    near = difflib.get_close_matches(source, SOURCES, n=3, cutoff=0.4)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise FgpError(f"source {source!r} is unknown; {meant}Sources: {', '.join(SOURCES)}, {_FOLDER}NAME")


def _first_classes(source: Source, classes: int | None) -> int:
    """Return how many classes to keep."""
    if classes is None or source.cut:
        return len(source.classes)
    if source.task != "classification":
        raise FgpError(f"classes {classes}: only a classification set and scenes can be cut down to the first classes")
    if not 2 <= classes <= len(source.classes):
        raise FgpError(f"classes {classes}: this source has {len(source.classes)}; ask for 2 to {len(source.classes)}")
    return classes


def _chosen(part: Part, classes: int, limit: int | None, seed: int) -> np.ndarray:
    """Return the indices of the samples to write, ascending."""
    indices = np.arange(len(part)) if part.labels is None else np.flatnonzero(part.labels < classes)
    if limit is None:
        return indices
    if part.labels is None:
        return np.sort(choose.plain(len(indices), seed, limit))
    return np.sort(indices[choose.balanced(part.labels[indices], seed, limit=limit)])


def _write(
    out: Path, parts: dict[str, Part], indices: dict[str, np.ndarray], size: tuple[int, int] | None, metadata: dict
) -> None:
    first = fit(parts["train"].sample(int(indices["train"][0])), size)
    shape = first.image.shape[:2]
    label_type = np.dtype("int64" if metadata["outputs"] > 256 else "uint8")
    label_shape = () if metadata["task"] == "classification" else shape
    tensors = {}
    for split, chosen in indices.items():
        tensors[f"{split}.labels"] = (label_type, (len(chosen), *label_shape))
        tensors[f"{split}.images"] = (np.dtype("uint8"), (len(chosen), 3, *shape))
    histogram = np.zeros((3, 256), dtype=np.int64)
    with atomic(out) as aside, open(aside, "wb") as file:
        writer = SafetensorsWriter(file, tensors, metadata)
        for split, part in parts.items():
            for sample in _samples(part, indices[split], size):
                if sample.image.shape[:2] != shape:
                    raise FgpError(
                        f"{sample.where}: {sample.image.shape[0]}x{sample.image.shape[1]} (HxW) where others are "
                        f"{shape[0]}x{shape[1]}; give --size to resize all images"
                    )
                planes = np.ascontiguousarray(sample.image.transpose(2, 0, 1))
                writer.append(f"{split}.images", planes)
                writer.append(f"{split}.labels", np.asarray(sample.label, dtype=label_type))
                if split == "train":
                    for channel in range(3):
                        histogram[channel] += np.bincount(planes[channel].ravel(), minlength=256)
        mean, std = _statistics(histogram)
        writer.finish(metadata | {"mean": mean, "std": std})


def _samples(part: Part, indices: np.ndarray, size: tuple[int, int] | None) -> Iterator[Sample]:
    """Yield the samples in order, read and resized by a few threads, a few at a time."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        for start in range(0, len(indices), _AT_ONCE):
            yield from pool.map(lambda index: fit(part.sample(int(index)), size), indices[start : start + _AT_ONCE])


def _statistics(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation, 0..1 per channel, of pixel values counted in `histogram` (3, 256).

    The standard deviation is at least one grey level, so that a constant channel can be normalised.
    """
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = (share * np.square(values - mean[:, None])).sum(axis=1)
    return mean.tolist(), np.maximum(np.sqrt(variance), _SMALLEST_STD).tolist()
