"""Prepared data as tensors: `load`, `batches`, `subset`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fgp import tensorfiles
from fgp.data import choose
from fgp.data.header import KIND, read_header
from fgp.errors import FgpError

_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) with labels uint8 (N,) (int64 for more than 256 classes) or uint8 (N, H, W)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; fields as in `fgp.data.Header`."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    outputs: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    task: str
    void: int
    source: str


def load(path: str | os.PathLike) -> Dataset:
    """Open a prepared data file; the images stay on disk until they are used (memory-mapped), so do not write into them.

    Every byte is read once, to check the digest: 0.5 to 1.5 s a GiB (`fgp.tensorfiles.digest`), more from a slow disk.

    Raises:
        FgpError: as `read_header`, the images or labels are not those that were written, or a label names no class.
    """
    header = read_header(path)
    tensors, _ = tensorfiles.read(path, KIND)
    splits = {split: Split(tensors[f"{split}.images"], tensors[f"{split}.labels"]) for split in ("train", "test")}
    void = header.void if header.task == "segmentation" else None
    for name, split in splits.items():
        wrong = _illegal_label(split.labels, len(header.classes), void)
        if wrong is not None:
            raise FgpError(
                f"{path}: {name}.labels holds {wrong}, but there are {len(header.classes)} classes; "
                f"make it again with {KIND.maker}"
            )
    return Dataset(
        **splits,
        classes=header.classes,
        outputs=header.outputs,
        mean=header.mean,
        std=header.std,
        task=header.task,
        void=header.void,
        source=header.source,
    )


def _illegal_label(labels: Tensor, classes: int, void: int | None) -> int | None:
    for chunk in labels.flatten().split(_CHUNK_BYTES):
        wrong = (chunk < 0) | (chunk >= classes)
        if void is not None:
            wrong &= chunk != void
        if wrong.any():
            return int(chunk[wrong][0])
    return None


@dataclass(frozen=True)
class _Batches:
    split: Split
    mean: Tensor
    std: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.mean.device
        for start in range(0, len(self.split), self.batch_size):
            part = slice(start, start + self.batch_size)
            images = self.split.images[part].to(device).float().div_(255).sub_(self.mean).div_(self.std)
            yield images, self.split.labels[part].to(device).long()


def batches(split: Split, dataset: Dataset, batch_size: int, device: str | torch.device = "cpu") -> _Batches:
    """Return a re-iterable of (images, labels) over `split`, in its order, without augmentation; the last batch may be smaller.

    Images are float32 (N, 3, H, W), normalised by the data set's mean and std; labels int64 (N,) or (N, H, W), void kept.

    Raises:
        FgpError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise FgpError(f"batch_size {batch_size}: must be at least 1")
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1) for values in (dataset.mean, dataset.std)
    )
    return _Batches(split, mean, std, batch_size)


def subset(split: Split, *, per_class: int | None = None, limit: int | None = None, seed: int = 0) -> Split:
    """Choose part of a split, reproducibly: a larger subset with the same seed contains the smaller one.

    Args:
        split: what to choose from.
        per_class: images of every class; classification only.
        limit: images in all (the whole split if it has fewer). Classification spreads them evenly over the classes;
            segmentation ignores the labels.
        seed: seed of the choice and of its order.

    Raises:
        FgpError: not exactly one of `per_class` and `limit` is given, or it cannot be met.
    """
    if (per_class is None) == (limit is None):
        raise FgpError("subset: give exactly one of per_class and limit")
    if split.labels.ndim == 1:
        chosen = choose.balanced(split.labels.numpy(), seed, per_class=per_class, limit=limit)
    elif per_class is not None:
        raise FgpError("per_class: an image of a segmentation set has no single class; use limit")
    else:
        chosen = choose.plain(len(split), seed, limit)
    indices = torch.from_numpy(chosen)
    return Split(split.images[indices], split.labels[indices])
