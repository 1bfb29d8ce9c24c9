"""Source `scenes`: generated pictures of several handwritten digits before clutter, for segmentation; nothing to download.

A scene is drawn from the back to the front: a smooth random texture, at most one stroke or blob, at most one fragment of a digit
(less than half of it, labelled background), then two or three whole digits (one where a second found no room) at random size,
place, tilt and colour. Scene i of a split depends on the seed, the split, i and the number of classes alone. Train scenes show
training digits only, test scenes test digits only (`fgp.data.digits.read_digits`).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fgp.data.digits import read_digits
from fgp.data.header import VOID
from fgp.data.source import Request, Sample, Source
from fgp.errors import FgpError

DIGITS = 10
DEFAULT_SIZE = (48, 64)
DEFAULT_COUNTS = {"train": 600, "test": 150}
INSIDE = 0.6

_DIGITS = (2, 3)
_FRAGMENTS = (0, 1)
_SHAPES = (0, 1)
_SIDE = (0.8, 1.0)
_ASPECT = (0.6, 0.75)
_TILT = 5.0
_ATTEMPTS = 12
_MOST_OVERLAP = 0.05
_NOISE = 0.02
_FAINTEST_INK = 0.1
_FULL_INK = 0.3


@dataclass(frozen=True)
class Placement:
    """A digit's number in the digit set and the box it fills: top, left, height, width in pixels, tilt in degrees."""

    digit: int
    top: int
    left: int
    height: int
    width: int
    tilt: float

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Scene:
    """Image uint8 (H, W, 3), labels uint8 (H, W), and what was drawn: whole digits, back to front, and fragments."""

    image: np.ndarray
    labels: np.ndarray
    digits: tuple[Placement, ...]
    fragments: tuple[Placement, ...]


@dataclass(frozen=True)
class ScenePart:
    """Scenes of one split. `pool` holds the numbers of the digits that may appear, an array a class; background comes after."""

    images: np.ndarray
    pool: tuple[np.ndarray, ...]
    count: int
    size: tuple[int, int]
    entropy: tuple[int, int]
    labels: None = None

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Draw scene `index`."""
        return _draw(np.random.default_rng((*self.entropy, index)), self.images, self.pool, self.size)

    def sample(self, index: int) -> Sample:
        """Draw scene `index`."""
        scene = self.scene(index)
        return Sample(scene.image, scene.labels, f"scene {index}")


def scenes(request: Request) -> Source:
    """Build source `scenes`: 600 train and 150 test scenes of 48x64 unless limits and a size (at least 16x16) are given.

    Labels 0 to 9 are the digits, 10 is the background, 255 the soft borders of digits. Where `request.classes` asks for the first
    N digits only, no other digit or fragment of one is drawn, and the background is class N.

    Raises:
        FgpError: the size is below 16x16, or the number of digits is not 2 to 10.
    """
    size = request.size or DEFAULT_SIZE
    if min(size) < 16:
        raise FgpError(f"size {size[0]} {size[1]}: a scene needs at least 16x16 pixels")
    count = DIGITS if request.classes is None else request.classes
    if not 2 <= count <= DIGITS:
        raise FgpError(f"classes {count}: scenes show {DIGITS} digits; ask for the first 2 to {DIGITS}")
    images, digit_labels, train = read_digits()
    first_and_last = {"train": (0, train), "test": (train, len(images))}
    counts = {"train": request.train_limit, "test": request.test_limit}
    parts = {}
    for number, (split, (first, last)) in enumerate(first_and_last.items()):
        pool = tuple(first + np.flatnonzero(digit_labels[first:last] == digit) for digit in range(count))
        parts[split] = ScenePart(images, pool, counts[split] or DEFAULT_COUNTS[split], size, (request.seed, number))
    classes = (*map(str, range(count)), "background")
    return Source(task="segmentation", classes=classes, outputs=len(classes), cut=True, **parts)


def coverage(image: np.ndarray, placement: Placement) -> np.ndarray:
    """Return how much of each pixel of the box a digit covers, float32 (height, width) in 0..1.

    `image` is uint8 (8, 8). The digit, with one empty pixel around it, is stretched to the box and tilted about its middle; ink
    is then sharpened, so that only its border is soft.
    """
    height, width = placement.height, placement.width
    padded = Image.fromarray(np.pad(image, 1))
    side = padded.width
    sine, cosine = np.sin(np.radians(placement.tilt)), np.cos(np.radians(placement.tilt))
    columns, rows = side / width, side / height
    matrix = (cosine * columns, sine * columns, 0.0, -sine * rows, cosine * rows, 0.0)
    shift_x = side / 2 - matrix[0] * width / 2 - matrix[1] * height / 2
    shift_y = side / 2 - matrix[3] * width / 2 - matrix[4] * height / 2
    matrix = (*matrix[:2], shift_x, *matrix[3:5], shift_y)
    ink = np.asarray(
        padded.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC), dtype=np.float32
    )
    return np.clip((ink / 255 - _FAINTEST_INK) / (_FULL_INK - _FAINTEST_INK), 0, 1)


def _draw(rng: np.random.Generator, images: np.ndarray, pool: tuple[np.ndarray, ...], size: tuple[int, int]) -> Scene:
    canvas = _shapes(rng, _texture(rng, size))
    labels = np.full(size, len(pool), dtype=np.uint8)
    fragments = tuple(_place(rng, pool, size)[0] for _ in range(rng.integers(*_FRAGMENTS, endpoint=True)))
    for placement in fragments:
        _paint(rng, canvas, placement, coverage(images[placement.digit], placement) * _less_than_half(rng, placement))
    placed: list[Placement] = []
    for _ in range(rng.integers(*_DIGITS, endpoint=True)):
        placement, label = _free_place(rng, pool, labels)
        if placement is None:
            continue
        cover = coverage(images[placement.digit], placement)
        _paint(rng, canvas, placement, cover)
        part = labels[placement.box]
        part[cover > 0] = VOID
        part[cover >= INSIDE] = label
        placed.append(placement)
    canvas += rng.normal(0, _NOISE, canvas.shape).astype(np.float32)
    return Scene(np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), labels, tuple(placed), fragments)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a background float32 (H, W, 3) in 0..1: a base colour and smooth variation at two scales."""
    height, width = size
    base = rng.uniform(0.1, 0.35, 3)
    canvas = np.broadcast_to(base, (height, width, 3)).astype(np.float32)
    for cells, strength in ((4, 0.15), (12, 0.08)):
        grid = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        canvas += rng.uniform(0.3, 1) * strength * (smooth / 127.5 - 1)
    return np.clip(canvas, 0, 1)


def _shapes(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Return the canvas with strokes and blobs, drawn at twice the resolution for soft edges."""
    height, width = canvas.shape[:2]
    layer = Image.new("RGBA", (2 * width, 2 * height))
    draw = ImageDraw.Draw(layer)
    span = np.array([2 * width, 2 * height])
    unit = min(height, width) / 12
    for _ in range(rng.integers(*_SHAPES, endpoint=True)):
        colour = (*rng.integers(0, 140, 3).tolist(), int(rng.integers(130, 256)))
        centre = rng.uniform(0, 1, 2) * span
        if rng.random() < 0.7:
            steps = rng.normal(0, 0.18, (rng.integers(1, 4), 2)) * span.min() * 1.3
            points = np.cumsum([centre, *steps], axis=0)
            draw.line(
                [tuple(point) for point in points.tolist()], fill=colour, width=int(rng.uniform(0.6, 2) * unit) + 1, joint="curve"
            )
        else:
            radius = rng.uniform(0.6, 3, 2) * unit
            draw.ellipse([*(centre - radius).tolist(), *(centre + radius).tolist()], fill=colour)
    layer = np.asarray(layer.reduce(2), dtype=np.float32) / 255
    return canvas + layer[..., 3:] * (layer[..., :3] - canvas)


def _place(rng: np.random.Generator, pool: tuple[np.ndarray, ...], size: tuple[int, int]) -> tuple[Placement, int]:
    """Choose a digit and a box inside the canvas; return the digit's label too."""
    label = int(rng.integers(len(pool)))
    height = int(rng.uniform(*_SIDE) * min(size))
    width = int(height * rng.uniform(*_ASPECT))
    top, left = (int(rng.integers(0, total - side + 1)) for total, side in zip(size, (height, width), strict=True))
    return Placement(int(rng.choice(pool[label])), top, left, height, width, float(rng.uniform(-_TILT, _TILT))), label


def _free_place(rng: np.random.Generator, pool: tuple[np.ndarray, ...], labels: np.ndarray) -> tuple[Placement | None, int]:
    """Choose a digit and a box that hides little of the digits drawn so far; None if none was found."""
    for _ in range(_ATTEMPTS):
        placement, label = _place(rng, pool, labels.shape)
        if (labels[placement.box] != len(pool)).mean() <= _MOST_OVERLAP:
            return placement, label
    return None, len(pool)


def _less_than_half(rng: np.random.Generator, placement: Placement) -> np.ndarray:
    """Return a mask, bool (height, width), of what lies beyond a random line that passes beside the middle of the box."""
    rows, columns = np.ogrid[: placement.height, : placement.width]
    angle = rng.uniform(0, 2 * np.pi)
    across = (columns / placement.width - 0.5) * np.cos(angle) + (rows / placement.height - 0.5) * np.sin(angle)
    return across > rng.uniform(0.02, 0.15)


def _paint(rng: np.random.Generator, canvas: np.ndarray, placement: Placement, cover: np.ndarray) -> None:
    """Paint the box in a random light colour where `cover` says, in place."""
    area = canvas[placement.box]
    area += cover[..., None] * (_ink(rng) - area)


def _ink(rng: np.random.Generator) -> np.ndarray:
    """Return a light colour (3,) of random hue and intensity."""
    colour = rng.uniform(0.5, 1, 3)
    return colour / colour.max() * rng.uniform(0.7, 1)
