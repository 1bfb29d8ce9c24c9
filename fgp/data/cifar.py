"""Sources `cifar10` and `cifar100`."""

from pathlib import Path

import numpy as np

from fgp.data.folders import image_folder
from fgp.data.source import ArrayPart, Request, Source
from fgp.errors import FgpError


def cifar10(request: Request) -> Source:
    """Build source `cifar10`, see `_cifar`."""
    return _cifar(request, "cifar10")


def cifar100(request: Request) -> Source:
    """Build source `cifar100` with the 100 fine classes, see `_cifar`."""
    return _cifar(request, "cifar100")


def _cifar(request: Request, name: str) -> Source:
    """Read an image folder or zip `<root>/<name>` where there is one, else the official python archive through torchvision.

    torchvision checks the MD5 sum of every file of the archive before it reads it. The alphabetical order of an image folder's
    classes is the official order.

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
        raise FgpError(f"{packed}: checksum differs from the official one; delete it and download it again")
    return _source(dataset, root, request.download or not unpacked.is_dir())


def _source(dataset: type, root: Path, download: bool) -> Source:
    try:
        train = dataset(root, train=True, download=download)
        test = dataset(root, train=False)
    except (RuntimeError, OSError) as error:
        folder = root / dataset.base_folder
        raise FgpError(f"{folder}: incomplete, or a checksum differs ({error}); delete it and use --download") from None
    return Source(
        task="classification",
        classes=tuple(train.classes),
        outputs=len(train.classes),
        train=ArrayPart(train.data, np.array(train.targets, dtype=np.int64), f"{dataset.filename} train"),
        test=ArrayPart(test.data, np.array(test.targets, dtype=np.int64), f"{dataset.filename} test"),
    )
