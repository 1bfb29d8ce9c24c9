"""Checkpoints of an unfinished training, and the claim that lets one process alone write its files."""

import contextlib
import errno
import fcntl
import glob
import io
import os
import secrets
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import torch

from fgp.errors import FgpError
from fgp.files import atomic

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Claim:
    """The right to write an output; the process that claimed it last has it.

    `<out>.claim` holds the token of that process. Whoever writes holds the lock (flock) of this file and sees that the token is
    still its own. A trainer that outlives the Snakemake that started it is therefore stopped by its successor, which need not
    wait for it. NFS passes flock on to the server, unless it is mounted with local_lock: then the processes of one machine see
    each other's. A file system without flock leaves the token alone, hence a gap of the milliseconds between look and write.
    """

    def __init__(self, out: str | os.PathLike) -> None:
        """Prepare; `out` is the weights file that the training will write."""
        self._out, self._path = Path(out), Path(f"{out}.claim")
        self._token = secrets.token_hex(16).encode()

    def __enter__(self) -> Self:
        """Take the output over from whoever has it, after the file that it may be writing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._locked(os.O_CREAT)
        try:
            os.pwrite(descriptor, self._token, 0)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise FgpError(f"{self._path}: cannot be written ({error.strerror}); free some space, then run it again") from None
        finally:
            os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the claim, unless another process has taken over."""
        with contextlib.suppress(FgpError, OSError), self.held():
            self._path.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from taking over in this context.

        Raises:
            FgpError: another process has taken over.
        """
        with contextlib.ExitStack() as stack:
            token = None
            with contextlib.suppress(FileNotFoundError):
                descriptor = self._locked()
                stack.callback(os.close, descriptor)
                token = os.pread(descriptor, len(self._token), 0)
            if token != self._token:
                raise FgpError(
                    f"{self._out}: another process has taken over this training (or {self._path.name} was deleted); "
                    "this one stops and writes nothing more. Nothing is to be done if the other is wanted"
                )
            yield

    def _locked(self, flags: int = 0) -> int:
        """Return a descriptor with the lock of the file that has the name now: its owner deletes it at the end."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    os.close(descriptor)
                    raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor
            os.close(descriptor)


class Checkpoint:
    """The state of a training at the end of an epoch, beside the file that the training is to write.

    It serves only the run with the same `key`. The one before is kept, in case the machine stopped while the last was written.
    """

    def __init__(self, out: str | os.PathLike, key: str, seconds: float = 20.0, claim: Claim | None = None) -> None:
        """Prepare.

        Args:
            out: the weights file that the training will write.
            key: a hash of everything that determines the training.
            seconds: least time between two checkpoints.
            claim: on `out`, where other processes may train for it too.
        """
        self._last, self._previous = Path(f"{out}.checkpoint"), Path(f"{out}.checkpoint.previous")
        self.key, self._seconds = key, seconds
        self._held = claim.held if claim else contextlib.nullcontext
        self._saved = time.monotonic()

    def load(self) -> dict | None:
        """Return the last state of this very run, None where there is none or the files are damaged."""
        for path in (self._last, self._previous):
            # A damaged file can raise anything at all inside torch; the training then starts anew.
            with contextlib.suppress(Exception):
                state = _read(path) if path.is_file() else {}
                if state.get("key") == self.key:
                    return state
        return None

    def due(self) -> bool:
        """Tell whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self, state: dict) -> None:
        """Write a state of tensors, numbers, text, lists and dictionaries.

        Raises:
            FgpError: another process has taken over, or the disk is full; nothing is written.
        """
        content = io.BytesIO()  # torch does not say why it could not write to a file
        torch.save({**state, "key": self.key}, content)
        with self._held():
            self._tidy()
            with atomic(self._last) as aside:
                aside.write_bytes(content.getbuffer())
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self._last, self._previous)
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def results(self) -> Iterator[None]:
        """Write the results in this context; the checkpoints are deleted after it.

        Raises:
            FgpError: another process has taken over; the context is not entered.
        """
        with self._held():
            yield
            for path in (self._last, self._previous):
                path.unlink(missing_ok=True)
            self._tidy()

    def _tidy(self) -> None:
        """Delete what a process that was killed while it wrote has left."""
        for part in self._last.parent.glob(f".{glob.escape(self._last.name)}.*.part"):
            part.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    """Read a state; torch alone does not look at the checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
    return torch.load(path, map_location="cpu", weights_only=True)
