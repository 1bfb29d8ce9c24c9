"""What lies in the data root for a source, so that other data are noticed without being read."""

import os
from pathlib import Path

from fgp.data.archive import FolderArchive
from fgp.errors import FgpError

DOWNLOADED = 946684800
"""Time of modification, 2000-01-01, given to a file that a download made: its content was checked, and it may come later."""


def listing(source: str, root: str | os.PathLike | None) -> list[tuple[str, int, int]]:
    """Return (path below the root, bytes, time of modification in ns) of every file that a source is read from, sorted.

    That is the zip or else the folder of the source's name, without hidden files. Official archives, whose checksums are looked
    at whenever they are read, are left out, and so is what `download` has made: the list is the same before and after. [] where
    there is nothing, or no folder that can be read.

    Args:
        source: as `fgp.data.prepare` takes it, e.g. "cifar10" or "folder:flowers".
        root: the data root, None for none.
    """
    if root is None:
        return []
    name = source.removeprefix("folder:")
    packed, folder = Path(root, f"{name}.zip"), Path(root, name)
    try:
        below = [folder / entry for entry in FolderArchive(folder).names if not entry.endswith("/")] if folder.is_dir() else []
    except FgpError:  # the preparation of the data will say what is wrong with the folder
        below = []
    found = []
    for path in [packed] if packed.is_file() else below:
        try:
            facts = path.stat()
        except OSError:  # a link that leads nowhere
            continue
        if facts.st_mtime != DOWNLOADED:
            found.append((path.relative_to(root).as_posix(), facts.st_size, facts.st_mtime_ns))
    return found
