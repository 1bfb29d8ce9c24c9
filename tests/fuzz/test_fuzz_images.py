"""Image files."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from strategies import damaged, fuzz, outcome

from fgp.data.archive import FolderArchive
from fgp.data.decode import label_table, read_image, read_labels

TABLE = label_table({0: 0, 1: 1})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")


def encoded(form, mode="RGB", **options):
    content = io.BytesIO()
    Image.fromarray(np.arange(35 * 3, dtype=np.uint8).reshape(5, 7, 3)).convert(mode).save(content, form, **options)
    return content.getvalue()


VALID = [encoded(form) for form in FORMATS] + [encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA")]
VALID += [
    encoded("JPEG", "CMYK"),
    encoded("JPEG", progressive=True),
    encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01"),
    encoded("WEBP", lossless=True),
]


def put(folder, content, name="picture.png"):
    (folder / name).write_bytes(content)
    return folder / name


def image(path):
    return read_image(FolderArchive(path.parent), path.name)


def labels(path):
    return read_labels(FolderArchive(path.parent), path.name, TABLE)


def read(path):
    with warnings.catch_warnings(action="ignore"):
        return outcome(image, path), outcome(labels, path)


def check(found):
    pixels, classes = found
    assert pixels is None or (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8 and pixels.size)
    assert classes is None or (classes.ndim == 2 and classes.dtype == np.uint8 and classes.max() < 2)


@fuzz(400, st.sampled_from(VALID).flatmap(damaged))
def test_damaged_images(tmp_path, content):
    check(read(put(tmp_path, content)))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, data=b"", interlace=0, more=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


SIDES = st.sampled_from([0, 1, 2, 2**13, 2**14, 2**16, 2**31 - 1, 2**32 - 1])


@fuzz(150, SIDES, SIDES, st.sampled_from([1, 2, 4, 8, 16, 3]), st.integers(0, 7), st.binary(max_size=40), st.integers(0, 2))
def test_png_headers(tmp_path, width, height, depth, colour, data, interlace):
    check(read(put(tmp_path, png(width, height, depth, colour, data, interlace))))


@fuzz(
    100,
    st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"pHYs", b"gAMA", b"acTL", b"fcTL", b"eXIf", b"IHDR"]),
    st.binary(max_size=30),
    st.sampled_from([0, 2, 3, 4, 6]),
)
def test_png_chunks(tmp_path, kind, data, colour):
    check(read(put(tmp_path, png(1, 1, 8, colour, bytes(5), more=chunk(kind, data)))))


@fuzz(
    100,
    st.sampled_from(["P1", "P2", "P3", "P4", "P5", "P6", "Pf", "PF", "P0"]),
    st.lists(st.sampled_from(["0", "1", "2", "255", "256", "65535", "99999999999", "-1", "x", "#"]), max_size=8),
    st.binary(max_size=12),
)
def test_ppm(tmp_path, kind, fields, data):
    check(read(put(tmp_path, " ".join([kind, *fields]).encode() + b"\n" + data)))


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, side):
    """100 and 400 megapixels, in the range where Pillow warns and where it refuses by itself."""
    path = put(tmp_path, png(side, side, data=bytes(1000)))
    assert read(path) == (None, None)
    code = "import sys; from test_fuzz_images import image, Path; image(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30
    )
    assert "picture.png" in done.stderr.splitlines()[-1]
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_bombs_beside_the_pixels(tmp_path, kind):
    text = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + zlib.compress(bytes(1 << 26))
    found = read(put(tmp_path, png(1, 1, data=bytes(4), more=chunk(kind, text))))
    assert found[0] is None or found[0].shape == (1, 1, 3)


@pytest.mark.parametrize("form", ["TIFF", "GIF", "ICO", "TGA", "EPS", "PDF"])
def test_other_formats_under_a_known_name(tmp_path, form):
    assert read(put(tmp_path, encoded(form))) == (None, None)
