"""Reading and writing the files that pass between the stages; those that are JSON carry a checksum of themselves, the seal."""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pydantic_core import from_json

from fgp.errors import FgpError

_FULL, _CLOSED = "free some space, then run it again", "choose a folder that you may write to"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _CLOSED),
}
SEAL = "seal"
_SEAL_DIGITS = 16


class Kind(NamedTuple):
    """What a file is meant to be and what makes it, as messages say it."""

    name: str
    maker: str


ANY = Kind("a file", "the stage that writes it")


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success rename it to `path`, once it is on the disk, else delete it.

    A reader therefore never sees half a file. Missing parent folders are created. Write through Python's `open`, which heeds the
    umask and says why it failed; the writers of other languages do neither.

    Raises:
        FgpError: the file cannot be written: the disk is full, the folder cannot be written to, `path` is no regular file, ...
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise FgpError(f"{path}: is there, but not a file; name another file to write")
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(aside), *map(str, path.parents)):
            raise
        advice = _ADVICE.get(error.errno, "name another file to write")
        raise FgpError(f"{path}: cannot be written ({os.strerror(error.errno)}); {advice}") from None
    finally:
        with suppress(OSError):  # a read-only file system refuses even to delete what is not there
            aside.unlink()


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic(path) as aside:
        aside.write_text(text)


def read_json(path: str | os.PathLike, kind: Kind = ANY) -> dict:
    """Read a JSON object.

    Raises:
        FgpError: the file is missing, unreadable, not JSON (NaN and infinity are not) or not an object.
    """
    require_file(path, f"make it with {kind.maker}")
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise FgpError(f"{path}: not {kind.name} of fgp, or damaged: not JSON ({error}); make one with {kind.maker}") from None


def write_sealed(path: str | os.PathLike, values: Mapping[str, object]) -> None:
    """Write `values` and their seal as `write_json` does."""
    write_json(path, seal(values))


def read_sealed(path: str | os.PathLike, kind: Kind = ANY) -> dict:
    """Read what `write_sealed` wrote, without the seal.

    Raises:
        FgpError: as `read_json` and `check_seal`.
    """
    return check_seal(read_json(path, kind), path, kind)


def seal(values: Mapping[str, object]) -> dict:
    """Return `values` with an entry `seal`, a hash of all others, against accidents: a hand that edits, a disk that fails.

    The hash is over the values, not over the text, whose layout may change. It is no signature: whoever wants to forge can.

    Raises:
        FgpError: there is an entry `seal`.
    """
    if SEAL in values:
        raise FgpError(f"entry {SEAL}: holds the checksum of a file; choose another name")
    return {**values, SEAL: _checksum(values)}


def check_seal(values: Mapping[str, object], path: str | os.PathLike, kind: Kind = ANY) -> dict:
    """Return `values` without their seal.

    Args:
        values: what the file `path` holds.
        path: for messages.
        kind: what the file is meant to be, for messages.

    Raises:
        FgpError: the seal is missing or does not match the other entries.
    """
    rest = dict(values)
    if SEAL not in rest:
        raise FgpError(
            f"{path}: holds no checksum of itself (entry {SEAL}): not {kind.name} of fgp, or written by an older version of fgp "
            f"or by hand; make one with {kind.maker}"
        )
    if rest.pop(SEAL) != _checksum(rest):
        raise FgpError(
            f"{path}: its content does not match its own checksum: it was edited or damaged after it was written; "
            f"make it again with {kind.maker}"
        )
    return rest


def _checksum(values: Mapping[str, object]) -> str:
    as_read = json.loads(json.dumps(values, allow_nan=False))  # keys are text, tuples are lists
    text = json.dumps(as_read, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_SEAL_DIGITS]


def parse_json(text: str | bytes) -> dict:
    """Return the JSON object in `text`; ValueError if it is none, nested too deep or holds a number that is not finite."""
    value = from_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    for key in _not_finite(value):
        raise ValueError(f"{key}: not a finite number")
    return value


def _not_finite(value: object, key: str = "") -> Iterator[str]:
    """Yield the keys, joined by dots, at which NaN or infinity stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key
    elif isinstance(value, dict | list):
        for name, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(below, f"{key}.{name}" if key else str(name))


def require_file(path: str | os.PathLike, advice: str) -> None:
    """Refuse what is no regular file, for reading a pipe or a device might never end, and what this user may not read.

    Raises:
        FgpError: there is no file, and the message ends in `advice`; or it cannot be opened.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        if regular:
            open(path, "rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise FgpError(f"{path}: no such file; {advice}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if not regular:
        raise FgpError(f"{path}: not a file; {advice}")


def unreadable(path: str | os.PathLike, error: OSError) -> FgpError:
    """Return the error that says why the operating system does not let `path` be read."""
    permissions = "change its permissions, or " if isinstance(error, PermissionError) else ""
    return FgpError(f"{path}: cannot be read ({error.strerror or error}); {permissions}name another file")
