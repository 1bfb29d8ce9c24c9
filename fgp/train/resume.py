"""Checkpoints of an unfinished training."""

import contextlib
import os
import pickle
import time
import zipfile
from pathlib import Path

import torch

from fgp.files import atomic

_DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError)


class Checkpoint:
    """The state of a training at the end of an epoch, beside the file that the training is to write.

    It serves only the run with the same `key`. The one before is kept, in case the machine stopped while the last was written.
    """

    def __init__(self, out: str | os.PathLike, key: str, seconds: float = 20.0) -> None:
        """Prepare.

        Args:
            out: the weights file that the training will write.
            key: a hash of everything that determines the training.
            seconds: least time between two checkpoints.
        """
        self._paths = [Path(f"{out}.checkpoint"), Path(f"{out}.checkpoint.previous")]
        self._key, self._seconds = key, seconds
        self._saved = time.monotonic()

    def load(self) -> dict | None:
        """Return the last state of this very run, None where there is none or the files are damaged."""
        for path in self._paths:
            with contextlib.suppress(*_DAMAGED):
                state = torch.load(path, map_location="cpu", weights_only=True)
                if state["key"] == self._key:
                    return state
        return None

    def due(self) -> bool:
        """Tell whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self, state: dict) -> None:
        """Write a state of tensors, numbers, text, lists and dictionaries."""
        last, previous = self._paths
        with atomic(last) as aside:
            torch.save({**state, "key": self._key}, aside)
            if last.exists():
                os.replace(last, previous)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the files; the training's results are written."""
        for path in self._paths:
            path.unlink(missing_ok=True)
