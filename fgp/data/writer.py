"""A file of `fgp.tensorfiles` written piece by piece, for data that does not fit in memory."""

import json
import os
from typing import BinaryIO

import numpy as np

from fgp import tensorfiles

_NAMES = {np.dtype("uint8"): "U8", np.dtype("int64"): "I64"}
_ROOM = 1024


class SafetensorsWriter:
    """Write the tensors of a safetensors file in pieces along their first axis; the metadata follow at the end.

    The header comes first in the file, so its room is reserved from `metadata` as known at the start, and `finish` may add up to
    1024 bytes to it. Format: https://github.com/huggingface/safetensors, "Format".
    """

    def __init__(self, file: BinaryIO, tensors: dict[str, tuple[np.dtype, tuple[int, ...]]], metadata: dict) -> None:
        self._file = file
        self._entries, self._types, self._position, self._end = {}, {}, {}, {}
        begin = 0
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -np.dtype(item[1][0]).itemsize):
            end = begin + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
            self._entries[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [begin, end]}
            self._types[name] = np.dtype(dtype)
            begin = end
        self._digest = tensorfiles.Digest({name: (np.dtype(dtype).name, shape) for name, (dtype, shape) in tensors.items()})
        self._length = len(self._header(metadata)) + _ROOM
        self._length += -self._length % 8
        for name, entry in self._entries.items():
            self._position[name], self._end[name] = (8 + self._length + offset for offset in entry["data_offsets"])

    def append(self, name: str, values: np.ndarray) -> None:
        """Write the next piece of tensor `name`."""
        if values.dtype != self._types[name] or self._position[name] + values.nbytes > self._end[name]:
            raise ValueError(f"{name}: {values.dtype} {values.shape} does not fit what was announced")
        content = np.ascontiguousarray(values).data
        self._file.seek(self._position[name])
        self._file.write(content)
        self._digest.update(name, content)
        self._position[name] += values.nbytes

    def digest(self) -> str:
        """Return the digest of what was written to all tensors."""
        return self._digest.hexdigest()

    def finish(self, metadata: dict) -> None:
        """Write the header. Every tensor must be complete."""
        incomplete = [name for name in self._entries if self._position[name] != self._end[name]]
        header = self._header(metadata)
        if incomplete or len(header) > self._length:
            raise ValueError(f"incomplete tensors {incomplete} or a header of {len(header)} bytes in {self._length}")
        self._file.seek(0, os.SEEK_SET)
        self._file.write(self._length.to_bytes(8, "little") + header.ljust(self._length))

    def _header(self, metadata: dict) -> bytes:
        return json.dumps({"__metadata__": tensorfiles.header_entry(metadata, self.digest()), **self._entries}).encode()
