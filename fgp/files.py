"""Reading and writing the small files that pass between the stages."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgp.errors import FgpError


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` on success, delete it on failure.

    A reader therefore never sees half a file. Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic(path) as aside:
        aside.write_text(text)


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON object.

    Raises:
        FgpError: the file is missing, unreadable, not JSON or not an object.
    """
    try:
        value = json.loads(Path(path).read_text())
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from None
    except (ValueError, RecursionError) as error:
        raise FgpError(f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again") from None
    if not isinstance(value, dict):
        raise FgpError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
