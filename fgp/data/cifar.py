"""Sources `cifar10` and `cifar100`."""

import codecs
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np

from fgp.data.folders import image_folder
from fgp.data.source import ArrayPart, Request, Source
from fgp.errors import FgpError
from fgp.files import require_file

_PIXELS = 3 * 32 * 32
_ADVICE = "fetch the official files with --download, below another --root if these are to be kept"
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


def cifar10(request: Request) -> Source:
    """Build source `cifar10`, see `_cifar`."""
    return _cifar(request, "cifar10")


def cifar100(request: Request) -> Source:
    """Build source `cifar100` with the 100 fine classes, see `_cifar`."""
    return _cifar(request, "cifar100")


def _cifar(request: Request, name: str) -> Source:
    """Read an image folder or zip `<root>/<name>` where there is one, else the official python archive.

    torchvision knows its address and the MD5 sum of every file in it; a file with another sum is not read. The files are pickles:
    only arrays, numbers and text are taken from them. The alphabetical order of an image folder's classes is the official order.

    Raises:
        FgpError: neither is there and no download was asked for; a checksum differs; the download fails.
    """
    root = request.folder(name)
    if (root / f"{name}.zip").is_file() or (root / name).is_dir():
        return image_folder(request, name)
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    packed = root / dataset.filename
    unpacked = root / dataset.base_folder
    if not (packed.is_file() or unpacked.is_dir() or request.download):
        raise FgpError(
            f"{root}: has neither {name}.zip nor {name}/ nor {dataset.filename}; download it from "
            f"https://www.cs.toronto.edu/~kriz/cifar.html, or let --download do it"
        )
    if packed.is_file() and not unpacked.is_dir() and not check_integrity(packed, dataset.tgz_md5):
        raise FgpError(
            f"{packed}: its checksum differs from the official one; put the official file there, or name another --root"
        )
    return _source(dataset, root, request.download or not unpacked.is_dir())


def _source(dataset: type, root: Path, download: bool) -> Source:
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    folder, meta = root / dataset.base_folder, dataset.meta
    sums = dict([*dataset.train_list, *dataset.test_list, (meta["filename"], meta["md5"])])
    try:
        if download and not all(check_integrity(folder / name, md5) for name, md5 in sums.items()):
            download_and_extract_archive(dataset.url, root, filename=dataset.filename, md5=dataset.tgz_md5)
    except (RuntimeError, OSError) as error:
        raise FgpError(f"{folder}: incomplete, or a checksum differs ({error}); {_ADVICE}") from None
    classes = _unpickled(folder / meta["filename"], meta["md5"]).get(meta["key"])
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise FgpError(f"{folder / meta['filename']}: holds no names of classes; {_ADVICE}")
    return Source(
        task="classification",
        classes=tuple(classes),
        outputs=len(classes),
        train=_part(folder, dataset.train_list, len(classes), f"{dataset.filename} train"),
        test=_part(folder, dataset.test_list, len(classes), f"{dataset.filename} test"),
    )


def _part(folder: Path, files: list[list[str]], classes: int, name: str) -> ArrayPart:
    images, labels = [], []
    for file, md5 in files:
        content = _unpickled(folder / file, md5)
        pixels, numbers = content.get("data"), content.get("labels", content.get("fine_labels"))
        shaped = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (_PIXELS,) and len(pixels)
        legal = isinstance(numbers, list) and all(type(number) is int and 0 <= number < classes for number in numbers)
        if not shaped or not legal or len(pixels) != len(numbers):
            raise FgpError(f"{folder / file}: not a batch of CIFAR images and labels; {_ADVICE}")
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += numbers
    return ArrayPart(np.concatenate(images), np.array(labels, dtype=np.int64), name)


class _Unpickler(pickle._Unpickler):
    """Knows arrays and nothing else that could be called; the one in Python, whose memory does not grow with a forged index."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
        return _KNOWN[module, name]


def _unpickled(path: Path, md5: str) -> dict:
    require_file(path, _ADVICE)
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise FgpError(f"{path}: its checksum differs from the official one; {_ADVICE}")
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise FgpError(f"{path}: not a CIFAR file ({error}); {_ADVICE}") from None
    if not isinstance(value, dict):
        raise FgpError(f"{path}: not a CIFAR file; {_ADVICE}")
    return value
