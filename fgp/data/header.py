"""The header of a prepared data file, read and checked without torch."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from fgp.errors import FgpError

VOID = 255
TASKS = ("classification", "segmentation")
_ITEM_BYTES = {"U8": 1, "I64": 8}
_LONGEST_HEADER = 100_000_000


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
        metadata: the whole metadata entry, with `options` and `provenance`.
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
        FgpError: the file is missing, truncated, not a prepared data file, or its tensors contradict each other.
    """
    path = Path(path)
    entries = _entries(path)
    try:
        metadata = json.loads(entries.pop("__metadata__")["fgp"])
        header = _header(metadata, entries)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise FgpError(f"{path}: a safetensors file, but not prepared data; write it with `fgp data`") from None
    problem = _contradiction(header, entries)
    if problem:
        raise FgpError(f"{path}: {problem}; write it again with `fgp data`")
    return header


def _entries(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise FgpError(f"{path}: truncated or not a safetensors file; write it with `fgp data`")
            entries = json.loads(file.read(length))
            end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); write it with `fgp data`") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise FgpError(f"{path}: not a safetensors file; write it with `fgp data`") from None
    if not isinstance(end, int) or 8 + length + end != size:
        raise FgpError(f"{path}: {size} bytes long where its header promises {8 + length + end}: truncated; write it again")
    return entries


def _header(metadata: dict, entries: dict) -> Header:
    return Header(
        source=str(metadata["source"]),
        task=str(metadata["task"]),
        classes=tuple(str(name) for name in metadata["classes"]),
        outputs=int(metadata["outputs"]),
        mean=tuple(float(value) for value in metadata["mean"]),
        std=tuple(float(value) for value in metadata["std"]),
        void=int(metadata["void"]),
        shape=tuple(entries["train.images"]["shape"][1:]),
        counts={split: entries[f"{split}.images"]["shape"][0] for split in ("train", "test")},
        metadata=metadata,
    )


def _contradiction(header: Header, entries: dict) -> str | None:
    """Return what is wrong with the header, None if nothing is."""
    if header.task not in TASKS:
        return f"task {header.task!r} is not one of {', '.join(TASKS)}"
    if not 1 <= len(header.classes) <= header.outputs:
        return f"{len(header.classes)} classes for {header.outputs} outputs"
    if header.void != VOID:
        return f"void label {header.void} instead of {VOID}"
    numbers = (*header.mean, *header.std)
    if len(header.mean) != 3 or len(header.std) != 3 or not all(map(math.isfinite, numbers)) or min(header.std) <= 0:
        return "mean and std are not three finite numbers each, std above 0"
    segmentation = header.task == "segmentation"
    label_type = "I64" if header.outputs > 256 and not segmentation else "U8"
    for split, count in header.counts.items():
        image_shape = [count, *header.shape]
        label_shape = [count, *header.shape[1:]] if segmentation else [count]
        for name, dtype, shape in ((f"{split}.images", "U8", image_shape), (f"{split}.labels", label_type, label_shape)):
            entry = entries.get(name)
            if not isinstance(entry, dict) or entry.get("dtype") != dtype or entry.get("shape") != shape:
                found = f"{entry.get('dtype')} {entry.get('shape')}" if isinstance(entry, dict) else "nothing"
                return f"tensor {name} should be {dtype} {shape}, found {found}"
            if len(image_shape) != 4 or header.shape[0] != 3 or not all(type(n) is int and n > 0 for n in image_shape):
                return f"{split}.images has shape {image_shape}, not (N, 3, H, W)"
            begin, end = entry["data_offsets"]
            if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
                return f"tensor {name} has {end - begin} bytes, too many or too few for {dtype} {shape}"
    return None
