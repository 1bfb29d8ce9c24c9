"""The header of a prepared data file, read and checked without torch."""

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgp import tensorfiles
from fgp.errors import FgpError
from fgp.files import Kind

VOID = 255
TASKS = ("classification", "segmentation")
KIND = Kind("a data file", "`fgp data`")
_Entries = dict[str, tuple[str, list[int]]]
_Size = Annotated[int, Field(ge=0, lt=1 << 63)]
_Colour = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True)

    source: str
    task: str
    classes: list[str]
    outputs: _Size
    mean: _Colour
    std: _Colour
    void: int


@dataclass(frozen=True)
class Header:
    """What a prepared data file says about itself.

    Attributes:
        source: name of the source, e.g. "cifar10" or "folder:flowers".
        task: "classification" or "segmentation".
        classes: class names; label i is classes[i].
        outputs: number of network outputs, at least len(classes).
        mean, std: of the training images, per channel, in 0..1.
        void: label of pixels that do not count (segmentation).
        shape: (3, H, W) of every image.
        counts: number of images by split, {"train": N, "test": N}.
        metadata: the whole metadata entry, with `options`, `provenance` and `digest`.
    """

    source: str
    task: str
    classes: tuple[str, ...]
    outputs: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    void: int
    shape: tuple[int, int, int]
    counts: dict[str, int]
    metadata: dict


def read_header(path: str | os.PathLike) -> Header:
    """Read the header of a prepared data file; no image is touched and torch is not imported.

    Raises:
        FgpError: the file is missing, unreadable, not whole, not prepared data, or its tensors contradict each other.
    """
    metadata, entries = tensorfiles.header(path, KIND)
    try:
        header = _header(metadata, entries)
    except (KeyError, IndexError, ValidationError):
        raise FgpError(f"{path}: another file of fgp, not {KIND.name}; make one with {KIND.maker}") from None
    if problem := _contradiction(header, entries):
        raise FgpError(f"{path}: {problem}; make it again with {KIND.maker}")
    return header


def _header(metadata: dict, entries: _Entries) -> Header:
    known = _Metadata.model_validate(metadata)
    return Header(
        source=known.source,
        task=known.task,
        classes=tuple(known.classes),
        outputs=known.outputs,
        mean=tuple(known.mean),
        std=tuple(known.std),
        void=known.void,
        shape=tuple(entries["train.images"][1][1:]),
        counts={split: entries[f"{split}.images"][1][0] for split in ("train", "test")},
        metadata=metadata,
    )


def _contradiction(header: Header, entries: _Entries) -> str | None:
    """Return what is wrong with the header, None if nothing is."""
    if header.task not in TASKS:
        return f"task {header.task!r} is not one of {', '.join(TASKS)}"
    if not 1 <= len(header.classes) <= header.outputs:
        return f"{len(header.classes)} classes for {header.outputs} outputs"
    if header.void != VOID:
        return f"void label {header.void} instead of {VOID}"
    if min(header.std) <= 0:
        return f"std is {header.std}, not three numbers, each std above 0"
    segmentation = header.task == "segmentation"
    label_type = "I64" if header.outputs > 256 and not segmentation else "U8"
    for split, count in header.counts.items():
        image_shape = [count, *header.shape]
        label_shape = [count, *header.shape[1:]] if segmentation else [count]
        for name, dtype, shape in ((f"{split}.images", "U8", image_shape), (f"{split}.labels", label_type, label_shape)):
            found = entries.get(name)
            if found != (dtype, shape):
                return f"tensor {name} should be {dtype} {shape}, found {f'{found[0]} {found[1]}' if found else 'nothing'}"
            if len(image_shape) != 4 or header.shape[0] != 3 or min(image_shape) < 1:
                return f"{split}.images has shape {image_shape}, not (N, 3, H, W)"
    return None
