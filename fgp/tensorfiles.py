"""The safetensors files that pass between the stages (weights, scores, prepared data): a digest of the tensors, sealed metadata.

The header of such a file has one entry, `fgp`: JSON of what the file says about itself, with `digest`, a SHA-256 of its tensors,
and a seal over all of it (`fgp.files.seal`). Both are against accidents. Loads torch only to write and to read tensors.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from fgp.errors import FgpError
from fgp.files import ANY, SEAL, Kind, atomic, check_seal, parse_json, require_file, seal, unreadable

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "digest"
RESERVED = frozenset((DIGEST, SEAL))
"""Entries of the metadata that this module adds."""
_KEY = "fgp"


class Digest:
    """SHA-256 of tensors that may come in pieces: of each one's name, type, shape and bytes, then of these hashes, by name."""

    def __init__(self, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> None:
        """Begin; `tensors` is {name: (type as numpy and torch name it, shape)}."""
        heads = {name: json.dumps([name, dtype, list(shape)]) for name, (dtype, shape) in sorted(tensors.items())}
        self._parts = {name: hashlib.sha256(head.encode()) for name, head in heads.items()}

    def update(self, name: str, content: object) -> None:
        """Add the next bytes, anything with a contiguous buffer, of tensor `name`."""
        self._parts[name].update(content)

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return hashlib.sha256(b"".join(part.digest() for part in self._parts.values())).hexdigest()


def digest(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the digest of whole tensors on the CPU; 0.5 s a GiB on a processor with instructions for SHA, 1.5 s without."""
    import torch

    found = Digest({name: (str(tensor.dtype).removeprefix("torch."), tensor.shape) for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        found.update(name, tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def header_entry(metadata: Mapping[str, object], digest: str) -> dict[str, str]:
    """Return the entry of the header of a safetensors file that says `metadata` and the digest of the tensors."""
    return {_KEY: json.dumps(seal({**metadata, DIGEST: digest}), allow_nan=False)}


def write(path: str | os.PathLike, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, object]) -> None:
    """Write tensors, of any device and memory layout, with JSON-ready metadata, atomically.

    Raises:
        FgpError: the file cannot be written, or the metadata have an entry `seal`.
    """
    import torch
    from safetensors.torch import save

    # Cloning parts tensors that share memory, which safetensors refuses.
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    content = save(own, header_entry(metadata, digest(own)))
    with atomic(path) as aside:
        aside.write_bytes(content)


def header(path: str | os.PathLike, kind: Kind = ANY) -> tuple[dict, dict[str, tuple[str, list[int]]]]:
    """Return the metadata, with `digest`, and {tensor: (type as safetensors names it, shape)}; no tensor is read.

    Args:
        path: the file.
        kind: what it is meant to be, for messages.

    Raises:
        FgpError: no such file, it cannot be read, it is no whole safetensors file, or its metadata are not those that fgp wrote.
    """
    with _opened(path, "numpy", kind) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        entries = {name: (found.get_dtype(), found.get_shape()) for name, found in slices.items()}
        return _metadata(path, file, kind), entries


def metadata(path: str | os.PathLike, kind: Kind = ANY) -> dict:
    """Return the metadata, with `digest`; no tensor is read. As `header` otherwise."""
    return header(path, kind)[0]


def read(path: str | os.PathLike, kind: Kind = ANY) -> tuple[dict[str, "Tensor"], dict]:
    """Return the tensors and the metadata, with `digest`, which is checked: every byte of the file is read once.

    The tensors are mapped from the file, so do not write into them; what memory they take, the system can take back.

    Raises:
        FgpError: as `header`, or the tensors are not those that were written.
    """
    with _opened(path, "pt", kind) as file:
        about = _metadata(path, file, kind)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if digest(tensors) != about.get(DIGEST):
        raise FgpError(
            f"{path}: its tensors do not match the checksum in its header: it was damaged, or put together from two files, after "
            f"it was written; make it again with {kind.maker}"
        )
    return tensors, about


@contextmanager
def _opened(path: str | os.PathLike, framework: str, kind: Kind) -> Iterator:
    require_file(path, f"make it with {kind.maker}")
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise FgpError(
            f"{path}: not {kind.name} of fgp, or incomplete: no whole safetensors file ({error}); make one with {kind.maker}"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _metadata(path: str | os.PathLike, file: safe_open, kind: Kind) -> dict:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise FgpError(
            f"{path}: a safetensors file, but not {kind.name} of fgp (no metadata {_KEY!r}); make one with {kind.maker}"
        )
    try:
        values = parse_json(text)
    except ValueError as error:
        raise FgpError(
            f"{path}: not {kind.name} of fgp, or damaged: its metadata are not JSON ({error}); make one with {kind.maker}"
        ) from None
    return check_seal(values, path, kind)
