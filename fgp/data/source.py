"""What a data source hands to `prepare`: two parts, read sample by sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fgp.errors import FgpError


@dataclass(frozen=True)
class Request:
    """The arguments of `prepare` that a source may need; `size` is (H, W) or None, `classes` how many of the first are kept."""

    root: Path | None
    size: tuple[int, int] | None = None
    classes: int | None = None
    seed: int = 0
    train_limit: int | None = None
    test_limit: int | None = None
    download: bool = False

    def folder(self, source: str) -> Path:
        """Return the data root.

        Raises:
            FgpError: none was given, or it does not exist.
        """
        if self.root is None:
            raise FgpError(f"source {source} reads files: name their folder with --root or the environment variable FGP_DATA")
        if self.download:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FgpError(f"{self.root}: cannot be made ({error.strerror}); name another data root with --root") from None
        if not self.root.is_dir():
            raise FgpError(f"{self.root}: no such folder; name the data root with --root or the environment variable FGP_DATA")
        return self.root


@dataclass(frozen=True)
class Sample:
    """One image uint8 (H, W, 3), its label (an int, or uint8 (H, W) with void as 255) and where it came from."""

    image: np.ndarray
    label: int | np.ndarray
    where: str


class Part(Protocol):
    """One split of a source. `labels` is int64 (N,) for classification, None for segmentation."""

    labels: np.ndarray | None

    def __len__(self) -> int:
        """Return the number of samples."""

    def sample(self, index: int) -> Sample:
        """Read one sample; called from several threads."""


@dataclass(frozen=True)
class Source:
    """A data set before preparation.

    `default_size`, (H, W), is what images are resized to when no size is asked for; `cut` says that the source has left out
    itself the classes that `Request.classes` does not ask for.
    """

    task: str
    classes: tuple[str, ...]
    outputs: int
    train: Part
    test: Part
    default_size: tuple[int, int] | None = None
    cut: bool = False


@dataclass(frozen=True)
class ArrayPart:
    """Images uint8 (N, H, W, 3) in memory with labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """Return image `index`."""
        return Sample(self.images[index], int(self.labels[index]), f"{self.name} image {index}")
