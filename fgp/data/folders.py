"""Image folders: `{train,test}/<class>/<image>` in a zip or a folder."""

import numpy as np

from fgp.data.archive import Archive, open_archive
from fgp.data.decode import is_image
from fgp.data.fileparts import ImagePart
from fgp.data.source import Request, Source
from fgp.errors import FgpError


def image_folder(request: Request, name: str) -> Source:
    """Build a source from `<root>/<name>.zip` or `<root>/<name>/`; classes in alphabetical order, images sorted by path.

    Raises:
        FgpError: the layout is not `{train,test}/<class>/<image>`, or a class has no images in one of the splits.
    """
    archive = open_archive(request.folder(name), name)
    folders = {split: _classes(archive, split) for split in ("train", "test")}
    classes = tuple(sorted(folders["train"].keys() | folders["test"].keys()))
    for split, found in folders.items():
        empty = [label for label in classes if not found.get(label)]
        if empty:
            raise FgpError(
                f"{archive.where(f'{split}/{empty[0]}')}: class without images; every class needs some in train and in test"
            )
    return Source(
        task="classification",
        classes=classes,
        outputs=len(classes),
        train=_part(archive, folders["train"], classes),
        test=_part(archive, folders["test"], classes),
    )


def folder(request: Request, name: str) -> Source:
    """Build source `folder:<name>`, an image folder of the user's. It needs a size.

    Raises:
        FgpError: as `image_folder`, or no size is given.
    """
    if request.size is None:
        raise FgpError(f"source folder:{name} needs --size: the images are resized to it")
    return image_folder(request, name)


def _classes(archive: Archive, split: str) -> dict[str, list[str]]:
    """Return the image names of every class below `split`, empty classes included."""
    classes: dict[str, list[str]] = {}
    for name in archive.names:
        parts = name.split("/")
        if parts[0] != split or parts[1:] in ([], [""]):
            continue
        if name.endswith("/"):
            classes.setdefault(parts[1], [])
        elif is_image(name):
            if len(parts) != 3:
                raise FgpError(f"{archive.where(name)}: expected {split}/<class>/<image>; move it into its class's folder")
            classes.setdefault(parts[1], []).append(name)
    if not classes:
        raise FgpError(f"{archive.where(split)}: no images; the layout is {{train,test}}/<class>/<image>")
    return classes


def _part(archive: Archive, names: dict[str, list[str]], classes: tuple[str, ...]) -> ImagePart:
    labels = np.repeat(np.arange(len(classes)), [len(names[label]) for label in classes])
    return ImagePart(archive, [name for label in classes for name in names[label]], labels)
