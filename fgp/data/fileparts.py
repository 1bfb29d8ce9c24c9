"""Parts whose samples are files of an archive."""

from dataclasses import dataclass

import numpy as np

from fgp.data.archive import Archive
from fgp.data.decode import read_image, read_labels
from fgp.data.source import Sample
from fgp.errors import FgpError


@dataclass(frozen=True)
class ImagePart:
    """Image files with labels int64 (N,)."""

    archive: Archive
    names: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int) -> Sample:
        """Decode image `index`."""
        name = self.names[index]
        return Sample(read_image(self.archive, name), int(self.labels[index]), self.archive.where(name))


@dataclass(frozen=True)
class PairPart:
    """Pairs (image file, annotation file); `table` as in `fgp.data.decode.read_labels`."""

    archive: Archive
    pairs: list[tuple[str, str]]
    table: np.ndarray
    labels: None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int) -> Sample:
        """Decode pair `index`."""
        image, annotation = self.pairs[index]
        return Sample(
            read_image(self.archive, image), read_labels(self.archive, annotation, self.table), self.archive.where(image)
        )


def pair_up(archive: Archive, images: dict[str, str], annotations: dict[str, str], what: str) -> list[tuple[str, str]]:
    """Pair images with annotations of the same key.

    Args:
        archive: where they lie, for messages.
        images: file name by key.
        annotations: file name by key.
        what: the split, for messages.

    Raises:
        FgpError: there are none, or one lacks its partner.
    """
    for key in sorted(images.keys() ^ annotations.keys()):
        name, lacking = (images[key], "annotation") if key in images else (annotations[key], "image")
        raise FgpError(f"{archive.where(name)}: has no {lacking}")
    if not images:
        raise FgpError(f"{archive.where(what)}: holds no images (docs/data.md tells the layout)")
    return [(images[key], annotations[key]) for key in sorted(images)]
