"""The header of a prepared data file, read and checked without torch."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fgp.errors import FgpError
from fgp.files import parse_json, require_file

VOID = 255
TASKS = ("classification", "segmentation")
_ITEM_BYTES = {"U8": 1, "I64": 8}
_LONGEST_HEADER = 100_000_000
_Size = Annotated[int, Field(ge=0, lt=1 << 63)]
_Colour = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[_Size]
    data_offsets: Annotated[list[_Size], Field(min_length=2, max_length=2)]


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True)

    source: str
    task: str
    classes: list[str]
    outputs: _Size
    mean: _Colour
    std: _Colour
    void: int


_ENTRIES = TypeAdapter(dict[str, _Entry])


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
    texts, entries = _read(path)
    try:
        header = _header(parse_json(texts["fgp"]), entries)
    except (KeyError, IndexError, TypeError, ValueError):
        raise FgpError(f"{path}: a safetensors file, but not prepared data; write it with `fgp data`") from None
    problem = _contradiction(header, entries)
    if problem:
        raise FgpError(f"{path}: {problem}; write it again with `fgp data`")
    return header


def _read(path: Path) -> tuple[dict, dict[str, _Entry]]:
    """Return the metadata and the tensors of a safetensors file that is as long as it promises."""
    require_file(path, "write it with `fgp data`")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise FgpError(f"{path}: truncated or not a safetensors file; write it with `fgp data`")
            parsed = parse_json(file.read(length))
        texts = parsed.pop("__metadata__", {})
        entries = _ENTRIES.validate_python(parsed)
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); write it with `fgp data`") from None
    except ValueError:
        raise FgpError(f"{path}: not a safetensors file; write it with `fgp data`") from None
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise FgpError(f"{path}: {size} bytes long where its header promises {8 + length + end}: truncated; write it again")
    return texts, entries


def _header(metadata: dict, entries: dict[str, _Entry]) -> Header:
    known = _Metadata.model_validate(metadata)
    return Header(
        source=known.source,
        task=known.task,
        classes=tuple(known.classes),
        outputs=known.outputs,
        mean=tuple(known.mean),
        std=tuple(known.std),
        void=known.void,
        shape=tuple(entries["train.images"].shape[1:]),
        counts={split: entries[f"{split}.images"].shape[0] for split in ("train", "test")},
        metadata=metadata,
    )


def _contradiction(header: Header, entries: dict[str, _Entry]) -> str | None:
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
            entry = entries.get(name)
            if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
                return f"tensor {name} should be {dtype} {shape}, found {f'{entry.dtype} {entry.shape}' if entry else 'nothing'}"
            if len(image_shape) != 4 or header.shape[0] != 3 or min(image_shape) < 1:
                return f"{split}.images has shape {image_shape}, not (N, 3, H, W)"
            begin, end = entry.data_offsets
            if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
                return f"tensor {name} has {end - begin} bytes, too many or too few for {dtype} {shape}"
    return None
