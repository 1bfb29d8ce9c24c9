"""Reading and writing the small files that pass between the stages."""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic_core import from_json

from fgp.errors import FgpError

_FULL, _CLOSED = "free some space, then run it again", "choose a folder that you may write to"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _CLOSED),
}


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success rename it to `path`, once it is on the disk, else delete it.

    A reader therefore never sees half a file. Missing parent folders are created.

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
    except FgpError:
        raise
    except Exception as error:
        number = _system_error(error)
        ours = (None, str(aside), *map(str, path.parents))
        if number is None or getattr(error, "filename", None) not in ours:
            raise
        advice = _ADVICE.get(number, "name another file to write")
        raise FgpError(f"{path}: cannot be written ({os.strerror(number)}); {advice}") from None
    finally:
        with suppress(OSError):  # a read-only file system refuses even to delete what is not there
            aside.unlink()


def _system_error(error: Exception) -> int | None:
    """Return the errno behind an exception, None for another kind; safetensors gives it in the text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic(path) as aside:
        aside.write_text(text)


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON object.

    Raises:
        FgpError: the file is missing, unreadable, not JSON (NaN and infinity are not) or not an object.
    """
    require_file(path, "run the stage that writes it")
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from None
    except ValueError as error:
        raise FgpError(f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again") from None


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
    """Refuse what is no regular file: reading a pipe or a device might never end.

    Raises:
        FgpError: there is no file; the message ends in `advice`.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    if not regular:
        raise FgpError(f"{path}: not a file; {advice}")
