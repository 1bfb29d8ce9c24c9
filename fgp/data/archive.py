"""Zip files and folders read through one interface, in memory; nothing is ever extracted.

A zip is refused before anything is read from it when the name of an entry leaves the folder (absolute, `..`, a drive), when an
entry is no plain file (a symbolic link, a device), encrypted or packed by another method than deflate, or when the declared sizes
look like a decompression bomb: more than `LARGEST_ENTRY` bytes in one entry, `LARGEST_TOTAL` in all, or an entry above
`SMALL_ENTRY` bytes that unpacks to more than `LARGEST_RATIO` times its packed size. No more is unpacked than an entry declares.
"""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from fgp.errors import FgpError
from fgp.files import require_file, unreadable

LARGEST_ENTRY = 1 << 28
LARGEST_TOTAL = 1 << 36
LARGEST_RATIO = 200
SMALL_ENTRY = 1 << 20
_DEEPEST = 8
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, NotImplementedError),
    *(ValueError, OverflowError, LookupError),
)


class Archive(Protocol):
    """Files by name; names are relative, with `/`, sorted; a folder's name ends in `/`. Hidden files are left out."""

    names: list[str]

    def read(self, name: str) -> bytes:
        """Return the content of a file; FgpError names the file if that fails. May be called from several threads."""

    def where(self, name: str) -> str:
        """Return the name of a file for messages."""


def open_archive(root: Path, name: str) -> Archive:
    """Open `<root>/<name>.zip` if it exists, else the folder `<root>/<name>`.

    A single folder around everything in the zip (usually `<name>/`) is taken off the names.

    Raises:
        FgpError: neither exists, or the zip is unreadable or refused.
    """
    packed, folder = root / f"{name}.zip", root / name
    if packed.is_file():
        return ZipArchive(packed)
    if folder.is_dir():
        return FolderArchive(folder)
    raise FgpError(
        f"{packed}: no such file, and no folder {folder} either; put one of them there (docs/data.md tells the layout)"
    )


class FolderArchive:
    """A folder and what is below it, eight levels deep; links are followed, but no folder is entered twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[tuple[int, int]] = set()
        try:
            self.names = sorted(self._walk(path, "", _DEEPEST))
        except OSError as error:
            raise FgpError(f"{error.filename}: cannot be listed ({error.strerror})") from None

    def _walk(self, folder: Path, prefix: str, levels: int) -> list[str]:
        names = []
        facts = os.stat(folder)
        identity = (facts.st_dev, facts.st_ino)
        if identity in self._seen:
            raise FgpError(f"{folder}: leads to a folder that was read before; a link must not lead back to a folder above it")
        self._seen.add(identity)
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if not _is_text(entry.name):
                raise FgpError(f"{entry.path}: its name is not UTF-8; rename it")
            if not entry.is_dir():
                names.append(prefix + entry.name)
            elif levels > 1:
                below = f"{prefix}{entry.name}/"
                names += [below, *self._walk(Path(entry.path), below, levels - 1)]
        return names

    def read(self, name: str) -> bytes:
        """Return the content of file `name`."""
        path = self._path / name
        require_file(path, "an image is expected there")
        try:
            if path.stat().st_size > LARGEST_ENTRY:
                raise FgpError(f"{path}: larger than {LARGEST_ENTRY >> 20} MiB; refused")
            return path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from None

    def where(self, name: str) -> str:
        """Return the path of file `name`."""
        return str(self._path / name)


class ZipArchive:
    """A zip file, checked as the module's docstring tells."""

    def __init__(self, path: Path) -> None:
        self._path = path
        require_file(path, "a zip file is expected there")
        try:
            self._zip = zipfile.ZipFile(path)
        except _UNREADABLE as error:
            raise FgpError(f"{path}: not a whole zip file ({error}); copy or download it again") from None
        entries = self._zip.infolist()
        for entry in entries:
            _refuse_unsafe(path, entry)
        if sum(entry.file_size for entry in entries) > LARGEST_TOTAL:
            raise FgpError(f"{path}: unpacks to more than {LARGEST_TOTAL >> 30} GiB; unpack it yourself and use the folder")
        visible = [entry.filename for entry in entries if not _hidden(entry.filename)]
        self._prefix = _common_folder(visible)
        relative = {name.removeprefix(self._prefix) for name in visible} - {""}
        folders = {f"{parent}/" for name in relative for parent in PurePosixPath(name).parents if str(parent) != "."}
        self.names = sorted(relative | folders)

    def read(self, name: str) -> bytes:
        """Return the content of entry `name`; its checksum is verified."""
        entry = self._zip.getinfo(self._prefix + name)
        try:
            with self._zip.open(entry) as file:
                # A read without a size unpacks everything first, whatever size the entry declares.
                content = file.read(entry.file_size + 1)
        except _UNREADABLE as error:
            raise FgpError(f"{self.where(name)}: cannot be unpacked ({error}); copy or download the zip again") from None
        if len(content) != entry.file_size:
            raise FgpError(f"{self.where(name)}: shorter than the zip says; copy or download the zip again")
        return content

    def where(self, name: str) -> str:
        """Return the zip's path and the entry's name."""
        return f"{self._path}: {self._prefix}{name}"


def _refuse_unsafe(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise FgpError(f"{path}: entry {name!r} points outside the archive; refused")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise FgpError(f"{path}: entry {name!r} is a symbolic link; refused")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FgpError(f"{path}: entry {name!r} is neither a file nor a folder; refused")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FgpError(f"{path}: entry {name!r} is packed by method {entry.compress_type}; pack the zip with deflate")
    if entry.flag_bits & 1:
        raise FgpError(f"{path}: entry {name!r} is encrypted; refused")
    inflated = entry.file_size > SMALL_ENTRY and entry.file_size > LARGEST_RATIO * entry.compress_size
    if entry.file_size > LARGEST_ENTRY or inflated:
        raise FgpError(
            f"{path}: entry {name!r} unpacks from {entry.compress_size} to {entry.file_size} bytes, over the limit of "
            f"{LARGEST_ENTRY >> 20} MiB or {LARGEST_RATIO} times; refused"
        )


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _common_folder(names: list[str]) -> str:
    """Return the one top folder that holds everything, with its `/`, or nothing; train and test are never taken off."""
    tops = {name.partition("/")[0] + "/" if "/" in name else "" for name in names}
    top = tops.pop() if len(tops) == 1 else ""
    return "" if top in ("train/", "test/") else top
