"""Image files to arrays, and arrays to one size."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from fgp.data.archive import Archive
from fgp.data.source import Sample
from fgp.errors import FgpError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_MOST_PIXELS = 1 << 26
_DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
# Pillow warns from 89 million pixels on; images beyond _MOST_PIXELS are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_image(name: str) -> bool:
    """Tell by its suffix whether a file is an image."""
    return name.lower().endswith(SUFFIXES)


def read_image(archive: Archive, name: str) -> np.ndarray:
    """Decode an image to uint8 (H, W, 3); grey images get three equal channels, transparency is dropped.

    Raises:
        FgpError: the file is not a whole 8-bit image of a known format, or has more than 2^26 pixels.
    """
    image = _decode(archive, name)
    if image.mode not in _EIGHT_BIT:
        raise FgpError(f"{archive.where(name)}: pixel type {image.mode}; only 8-bit images are read, convert it")
    try:
        return np.asarray(image.convert("RGB"))
    except _DECODING_ERRORS as error:
        raise FgpError(f"{archive.where(name)}: unreadable image ({error})") from None


def read_labels(archive: Archive, name: str, table: np.ndarray) -> np.ndarray:
    """Decode an annotation, an 8-bit image with one channel (grey or palette), to uint8 (H, W) labels.

    Args:
        archive: where the annotation lies.
        name: its name there.
        table: int64 (256,), the label of every pixel value, -1 where the value is not allowed.

    Raises:
        FgpError: as `read_image`, or the image has another pixel type, or a value that is not allowed.
    """
    image = _decode(archive, name)
    if image.mode not in ("L", "P"):
        raise FgpError(f"{archive.where(name)}: pixel type {image.mode}; an annotation has one 8-bit channel of class numbers")
    values = np.asarray(image)
    labels = table[values]
    if labels.min() < 0:
        raise FgpError(f"{archive.where(name)}: pixel value {values[labels < 0][0]} is no class of this data set")
    return labels.astype(np.uint8)


def label_table(mapping: dict[int, int]) -> np.ndarray:
    """Return the table that `read_labels` takes, from {pixel value: label}."""
    table = np.full(256, -1, dtype=np.int64)
    table[list(mapping)] = list(mapping.values())
    return table


def fit(sample: Sample, size: tuple[int, int] | None) -> Sample:
    """Resize to (H, W): the image bilinearly (antialiased when it shrinks), a label map to the nearest pixel.

    Raises:
        FgpError: image and label map have different sizes.
    """
    shape, label = sample.image.shape[:2], sample.label
    if isinstance(label, np.ndarray) and label.shape != shape:
        raise FgpError(
            f"{sample.where}: the image is {shape[0]}x{shape[1]} (HxW), its annotation {label.shape[0]}x{label.shape[1]}"
        )
    if size is None or size == shape:
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize(size[::-1], Image.Resampling.BILINEAR))
    if isinstance(label, np.ndarray):
        label = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
    return Sample(image, label, sample.where)


def _decode(archive: Archive, name: str) -> Image.Image:
    content = archive.read(name)
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        size = image.width * image.height
        if not 0 < size <= _MOST_PIXELS:
            limit = f"over the limit of {_MOST_PIXELS}" if size else "nothing to see"
            raise FgpError(f"{archive.where(name)}: {image.width}x{image.height} pixels, {limit}")
        image.load()
    except _DECODING_ERRORS as error:
        raise FgpError(f"{archive.where(name)}: unreadable image ({error})") from None
    return image
