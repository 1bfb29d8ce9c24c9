"""Zip files of images: damage, odd names, hostile entries, bombs."""

import io
import os
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from strategies import damaged, fuzz, outcome, time_limit

from fgp.data import load, prepare
from fgp.data.archive import LARGEST_ENTRY, SMALL_ENTRY, ZipArchive

ROOT = Path(__file__).parents[2]
ODD = (
    "train/a/b.png",
    "train",
    "train/",
    "train/a",
    "train//x.png",
    "./train/a/x.png",
    "train/a/x.png/y.png",
    "x" * 5000,
    "é",
    "a\nb",
)


def png(height=3, width=4):
    content = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def packed(extra=()):
    """A zip of one image a class and split; `extra` are more (ZipInfo or name, content)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
            file.writestr(f"pets/{name}", png())
        for name, more in extra:
            file.writestr(name, more)
    return content.getvalue()


VALID = packed()


def put(folder, content):
    path = folder / "pets.zip"
    path.write_bytes(content)
    return path


def everything(path):
    archive = ZipArchive(path)
    return {name: archive.read(name) for name in archive.names if not name.endswith("/")}


def prepared(path):
    prepare("folder:pets", path.parent / "out" / "x", path.parent, size=4)
    return load(path.parent / "out" / "x")


def refused(path, read=prepared):
    (path.parent / "out").mkdir(exist_ok=True)
    assert outcome(read, path) is None
    assert not os.listdir(path.parent / "out")


@fuzz(300, damaged(VALID))
def test_damaged_zip(tmp_path, content):
    files = outcome(everything, put(tmp_path, content))
    assert files is None or all(len(data) < 1000 for data in files.values())


@fuzz(100, damaged(VALID))
def test_prepare_of_a_damaged_zip(tmp_path, content):
    path = put(tmp_path, content)
    (tmp_path / "out").mkdir(exist_ok=True)
    data = outcome(prepared, path)
    if data:
        assert data.train.images.shape[1:] == (3, 4, 4)
        (tmp_path / "out" / "x").unlink()
    assert not os.listdir(tmp_path / "out")


@fuzz(
    100,
    st.sampled_from([b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"]),
    st.integers(4, 45),
    st.sampled_from([0, 1, 127, 128, 255]),
    st.integers(1, 2),
)
def test_damaged_zip_headers(tmp_path, mark, offset, value, width):
    """Every field of the three kinds of headers, one at a time: flags, methods, sizes, offsets, lengths of names."""
    start = VALID.index(mark)
    content = VALID[: start + offset] + bytes([value]) * width + VALID[start + offset + width :]
    files = outcome(everything, put(tmp_path, content))
    assert files is None or all(len(data) <= LARGEST_ENTRY for data in files.values())


@fuzz(
    100, st.lists(st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=3)
)
def test_odd_names(tmp_path, names):
    with warnings.catch_warnings(action="ignore"):
        content = packed([(f"pets/{name}", png()) for name in names])
    path = put(tmp_path, content)
    (tmp_path / "out").mkdir(exist_ok=True)
    if outcome(prepared, path):
        (tmp_path / "out" / "x").unlink()
    assert not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "C:/x.png", "..\\x.png", "a/../../x.png", "train/../x", "\\\\host\\x"])
def test_names_that_leave_the_folder(tmp_path, name):
    refused(put(tmp_path, packed([(name, png())])))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_entries_that_are_no_files(tmp_path, kind):
    entry = zipfile.ZipInfo("pets/train/a/1.png")
    entry.external_attr = (kind | 0o644) << 16
    refused(put(tmp_path, packed([(entry, "/etc/passwd")])))


def patched(content, local, central, name=b"pets/train/a/1.png"):
    """Write values into the headers of an entry: {offset: (struct format, value)} for the local and the central one."""
    content = bytearray(content)
    for mark, fields in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        start = content.index(name, content.index(mark) if mark == b"PK\x03\x04" else content.index(b"PK\x01\x02"))
        start -= 30 if mark == b"PK\x03\x04" else 46
        assert content[start : start + 4] == mark
        for offset, (form, value) in fields.items():
            struct.pack_into(form, content, start + offset, value)
    return bytes(content)


def one_more(size, method=zipfile.ZIP_DEFLATED):
    entry = zipfile.ZipInfo("pets/train/a/1.png")
    entry.compress_type = method
    return packed([(entry, bytes(size))])


@pytest.mark.parametrize("flag", [1, 1 | 1 << 6, 1 << 5, 1 << 11])
def test_flags(tmp_path, flag):
    """Encrypted, strongly encrypted, patch data; UTF-8 is harmless, so there the content is what is refused."""
    refused(put(tmp_path, patched(one_more(10), {6: ("<H", flag)}, {8: ("<H", flag)})))


def test_wrong_checksum(tmp_path):
    refused(put(tmp_path, patched(packed([("pets/train/a/1.png", png())]), {14: ("<I", 1)}, {16: ("<I", 1)})))


@pytest.mark.parametrize("size", [SMALL_ENTRY + 1, 1 << 24])
def test_bomb_that_tells_its_size(tmp_path, size):
    refused(put(tmp_path, one_more(size)))


@pytest.mark.parametrize("size", [LARGEST_ENTRY + 1, 2**32 - 2])
def test_huge_declared_size(tmp_path, size):
    refused(put(tmp_path, patched(one_more(10), {22: ("<I", size)}, {24: ("<I", size)})))


MEASURE = """
import resource, sys
from pathlib import Path
from fgp.data.archive import ZipArchive
from fgp.errors import FgpError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    ZipArchive(Path(sys.argv[1])).read("train/a/1.png")
except FgpError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bomb_that_lies_about_its_size(tmp_path, method):
    """150 MB of zeros, declared as a kilobyte, cost no memory."""
    path = put(tmp_path, patched(one_more(150 << 20, method), {22: ("<I", 1000)}, {24: ("<I", 1000)}))
    done = subprocess.run([sys.executable, "-c", MEASURE, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    message, kilobytes = done.stdout.splitlines()
    assert "pets.zip" in message
    assert int(kilobytes) < 20_000


def test_many_entries_and_deep_names(tmp_path):
    deep = "/".join(["d"] * 2000) + "/x.png"
    path = put(tmp_path, packed([(f"pets/train/a/{n}.png", b"") for n in range(3000)] + [(f"pets/{deep}", b"")]))
    with time_limit():
        refused(path)
