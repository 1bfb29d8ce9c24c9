"""Every data source on tiny made-up folders and zips, and every complaint."""

import hashlib
import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fgp.cli import main
from fgp.data import camvid, load, prepare
from fgp.data.archive import LARGEST_RATIO, ZipArchive
from fgp.data.cityscapes import _CLASSES
from fgp.errors import FgpError

RNG = np.random.default_rng(0)


def picture(height=4, width=6):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def packed(array, suffix="png", **options):
    content = io.BytesIO()
    Image.fromarray(array).save(content, {"png": "PNG", "webp": "WEBP"}[suffix], **options)
    return content.getvalue()


def lay_out(root, files, name=None):
    """Write {path: bytes} as files below `root`, or into `<root>/<name>.zip`."""
    if name is None:
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return
    with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def pets(**more):
    """An image folder of three classes, two training and one test image each."""
    names = [f"{split}/{label}/{n}.png" for split, many in (("train", 2), ("test", 1)) for label in "cab" for n in range(many)]
    return {f"pets/{name}": packed(picture()) for name in names} | more


def refused(message, *arguments, **options):
    with pytest.raises(FgpError, match=message):
        prepare(*arguments, **options)


@pytest.mark.parametrize("name", [None, "pets"])
def test_image_folder(tmp_path, name):
    files = pets()
    extra = {"pets/README.txt": b"hello", "pets/train/a/.hidden.png": b"x", "pets/val/z/1.png": b"x"}
    lay_out(tmp_path, files | extra, name)
    prepare("folder:pets", tmp_path / "x", tmp_path, size=(4, 6))
    data = load(tmp_path / "x")
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = np.asarray(Image.open(io.BytesIO(files["pets/train/b/1.png"])))
    assert np.array_equal(data.train.images[3].permute(1, 2, 0).numpy(), expected)


def test_zip_without_top_folder_and_grey_and_transparent_images(tmp_path):
    files = {name.removeprefix("pets/"): content for name, content in pets().items()}
    grey = picture()[..., 0]
    files["train/a/0.png"] = packed(grey)
    files["train/a/1.png"] = packed(np.dstack([picture(), np.full((4, 6), 9, np.uint8)]))
    lay_out(tmp_path, files, "pets")
    prepare("folder:pets", tmp_path / "x", tmp_path, size=(4, 6))
    assert all(np.array_equal(plane, grey) for plane in load(tmp_path / "x").train.images[0].numpy())


def test_images_are_resized_antialiased(tmp_path):
    lay_out(tmp_path, pets() | {"pets/train/a/0.png": packed(picture(40, 60))})
    prepare("folder:pets", tmp_path / "x", tmp_path, size=5)
    image = np.asarray(Image.open(tmp_path / "pets/train/a/0.png")).astype(float)
    assert load(tmp_path / "x").train.images.shape == (6, 3, 5, 5)
    got = load(tmp_path / "x").train.images[0, :, 2, 2].numpy()
    rows = np.clip(1 - np.abs((np.arange(40) + 0.5) / 8 - 2.5), 0, None)
    columns = np.clip(1 - np.abs((np.arange(60) + 0.5) / 12 - 2.5), 0, None)
    weights = np.outer(rows / rows.sum(), columns / columns.sum())
    assert np.abs(got - (image * weights[..., None]).sum(axis=(0, 1))).max() <= 1


def test_first_classes_and_balanced_limits(tmp_path):
    prepare("digits", tmp_path / "x", size=8, classes=4, train_limit=14, test_limit=8)
    data = load(tmp_path / "x")
    assert data.outputs == 4
    assert data.classes == tuple("0123")
    assert sorted(torch.bincount(data.train.labels).tolist()) == [3, 3, 4, 4]
    prepare("digits", tmp_path / "y", size=8, classes=4, train_limit=14, test_limit=8, seed=1)
    assert not torch.equal(data.train.images, load(tmp_path / "y").train.images)


def test_more_than_256_classes_get_int64_labels(tmp_path):
    image = packed(picture(2, 2))
    lay_out(tmp_path, {f"many/{split}/{n:03}/0.png": image for split in ("train", "test") for n in range(257)}, "many")
    prepare("folder:many", tmp_path / "x", tmp_path, size=2)
    data = load(tmp_path / "x")
    assert data.train.labels.dtype == torch.int64
    assert data.train.labels.tolist() == list(range(257))


def test_cifar_as_image_folder(tmp_path):
    files = {
        name.replace("pets", "cifar10").replace(".png", ".webp"): packed(picture(), "webp", lossless=True) for name in pets()
    }
    lay_out(tmp_path, files, "cifar10")
    prepare("cifar10", tmp_path / "x", tmp_path)
    expected = np.asarray(Image.open(io.BytesIO(files["cifar10/test/c/0.webp"])))
    assert np.array_equal(load(tmp_path / "x").test.images[2].permute(1, 2, 0).numpy(), expected)


def street(classes=range(12), **more):
    """A CamVid of two training and one test image."""
    files = {}
    for split, many in (("train", 2), ("test", 1)):
        for n in range(many):
            files[f"camvid/{split}/{n}.png"] = packed(picture())
            files[f"camvid/{split}annot/{n}.png"] = packed(RNG.choice(list(classes), (4, 6)).astype(np.uint8))
    return files | more


@pytest.mark.parametrize("name", [None, "camvid"])
def test_camvid(tmp_path, name):
    files = street() | {"camvid/val/9.png": b"unused", "camvid/valannot/8.png": b"unused"}
    lay_out(tmp_path, files, name)
    prepare("camvid", tmp_path / "x", tmp_path)
    data = load(tmp_path / "x")
    assert (len(data.classes), data.outputs, data.void) == (11, 12, 255)
    raw = np.asarray(Image.open(io.BytesIO(files["camvid/trainannot/1.png"])))
    assert np.array_equal(data.train.labels[1].numpy(), np.where(raw == 11, 255, raw))


def test_label_maps_are_resized_to_the_nearest_pixel(tmp_path):
    lay_out(tmp_path, street(), "camvid")
    prepare("camvid", tmp_path / "x", tmp_path)
    prepare("camvid", tmp_path / "y", tmp_path, size=(8, 18))
    small, large = load(tmp_path / "x").train.labels, load(tmp_path / "y").train.labels
    assert torch.equal(large, small.repeat_interleave(2, 1).repeat_interleave(3, 2))


def test_palette_annotations_count_by_index(tmp_path):
    image = Image.fromarray(np.full((4, 6), 3, np.uint8)).convert("P")
    image.putpalette([value for n in range(256) for value in (255 - n, 0, n)])
    content = io.BytesIO()
    image.save(content, "PNG")
    values = np.asarray(Image.open(io.BytesIO(content.getvalue())))
    lay_out(tmp_path, street() | {"camvid/testannot/0.png": content.getvalue()})
    prepare("camvid", tmp_path / "x", tmp_path)
    assert np.array_equal(load(tmp_path / "x").test.labels[0].numpy(), values)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A zip like the one GitHub makes of the SegNet tutorial, served from a file."""
    files = {name.replace("camvid/", "tutorial-1a2b/CamVid/"): content for name, content in street().items()}
    lay_out(tmp_path, files | {"tutorial-1a2b/README.md": b"", "tutorial-1a2b/CamVid/val/0.png": b""}, "served")
    monkeypatch.setattr(camvid, "_URL", (tmp_path / "served.zip").as_uri())
    lines = [f"{name.split('CamVid/')[1]} {hashlib.sha256(content).hexdigest()}\n" for name, content in files.items()]
    monkeypatch.setattr(camvid, "_DIGEST", hashlib.sha256("".join(sorted(lines)).encode()).hexdigest())
    return tmp_path / "new" / "root"


def test_camvid_download(tmp_path, repository):
    prepare("camvid", tmp_path / "x", repository, download=True)
    assert len(load(tmp_path / "x").train) == 2
    assert [path.name for path in repository.iterdir()] == ["camvid.zip"]


def test_camvid_download_with_another_checksum_is_refused(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(camvid, "_DIGEST", "0" * 64)
    refused("checksum of CamVid/ differs", "camvid", tmp_path / "x", repository, download=True)
    monkeypatch.setattr(camvid, "_URL", (tmp_path / "nothing.zip").as_uri())
    refused("download failed", "camvid", tmp_path / "x", repository, download=True)
    assert not list(repository.iterdir())


def test_cityscapes(tmp_path):
    ids = np.arange(24, dtype=np.uint8).reshape(4, 6)
    high = np.clip(ids + 12, 0, 33)
    for split in ("train", "val"):
        for city in ("aachen", "bonn"):
            start = f"cityscapes/{{}}/{split}/{city}/{city}_000000_000019"
            annotation = ids if city == "aachen" else high
            lay_out(tmp_path, {start.format("leftImg8bit") + "_leftImg8bit.png": packed(picture())})
            lay_out(tmp_path, {start.format("gtFine") + "_gtFine_labelIds.png": packed(annotation)})
            lay_out(tmp_path, {start.format("gtFine") + "_gtFine_color.png": b"unused"})
    prepare("cityscapes", tmp_path / "x", tmp_path)
    data = load(tmp_path / "x")
    assert data.outputs == len(data.classes) == 19
    where = {number: label for label, number in enumerate(_CLASSES.values())}
    for got, raw in zip(data.test.labels, (ids, high), strict=True):
        assert got.flatten().tolist() == [where.get(number, 255) for number in raw.flatten().tolist()]
    assert data.classes[where[26]] == "car"


def test_cityscapes_table_matches_the_official_one():
    official = "7 8 11 12 13 17 19 20 21 22 23 24 25 26 27 28 31 32 33"
    assert list(_CLASSES.values()) == [int(number) for number in official.split()]


def test_absent_sources_tell_what_to_do(tmp_path, monkeypatch):
    refused("csDownload leftImg8bit_trainvaltest.zip", "cityscapes", tmp_path / "x", tmp_path)
    refused("--download", "cifar10", tmp_path / "x", tmp_path)
    refused(r"camvid\.zip: no such file", "camvid", tmp_path / "x", tmp_path)
    refused(r"pets\.zip: no such file", "folder:pets", tmp_path / "x", tmp_path, size=4)
    refused("FGP_DATA", "camvid", tmp_path / "x", tmp_path / "absent")
    monkeypatch.delenv("FGP_DATA", raising=False)
    refused("--root or the environment variable FGP_DATA", "camvid", tmp_path / "x")
    lay_out(tmp_path, street())
    monkeypatch.setenv("FGP_DATA", str(tmp_path))
    prepare("camvid", tmp_path / "x")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("cifar", {}, "did you mean cifar10"),
        ("xyzzy", {}, "unknown; Sources: digits"),
        ("folder:", {"size": 4}, "name of a folder"),
        ("folder:../x", {"size": 4}, "name of a folder"),
        ("folder:pets", {}, "needs --size"),
        ("digits", {"size": 0}, "size 0"),
        ("digits", {"size": (1, 2, 3)}, "size"),
        ("digits", {"classes": 1}, "classes 1"),
        ("digits", {"classes": 11}, "ask for 2 to 10"),
        ("digits", {"train_limit": 0}, "train_limit 0"),
        ("scenes", {"seed": -1}, "seed -1"),
        ("digits", {"test_limit": 5}, "fewer than the 10 classes"),
    ],
)
def test_bad_arguments(tmp_path, source, options, message):
    refused(message, source, tmp_path / "x", tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"pets/train/a/0.png": b"not a picture"}, r"train/a/0\.png: unreadable image"),
        ({"pets/train/a/0.png": packed(picture(90, 90))[:-900]}, r"train/a/0\.png: unreadable image"),
        ({"pets/train/a/0.png": packed(RNG.integers(0, 2**16, (4, 6), dtype=np.uint16))}, r"train/a/0\.png: pixel type I;16"),
        ({"pets/test/d/0.png": packed(picture())}, r"train/d: class without images"),
        ({"pets/train/d/0.png": packed(picture())}, r"test/d: class without images"),
        ({"pets/train/a/deep/0.png": packed(picture())}, r"expected train/<class>/<image>"),
        ({"pets/train/0.png": packed(picture())}, r"expected train/<class>/<image>"),
    ],
)
@pytest.mark.parametrize("name", [None, "pets"])
def test_bad_image_folders(tmp_path, spoil, message, name):
    lay_out(tmp_path, pets() | spoil, name)
    refused(message, "folder:pets", tmp_path / "out" / "x", tmp_path, size=4)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_empty_class_folder_and_empty_split(tmp_path):
    lay_out(tmp_path, pets())
    (tmp_path / "pets/train/e").mkdir()
    refused("e: class without images", "folder:pets", tmp_path / "x", tmp_path, size=4)
    (tmp_path / "none/train/e").mkdir(parents=True)
    refused("test: no images", "folder:none", tmp_path / "x", tmp_path, size=4)


def test_images_of_different_sizes_need_a_size(tmp_path):
    files = {name.replace("pets", "cifar10"): content for name, content in pets().items()}
    lay_out(tmp_path, files | {"cifar10/test/b/0.png": packed(picture(5, 6))})
    refused(r"test/b/0\.png: 5x6 \(HxW\) where others are 4x6; give --size", "cifar10", tmp_path / "x", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"camvid/trainannot/1.png": packed(np.full((4, 6), 12, np.uint8))}, r"trainannot/1\.png: pixel value 12"),
        ({"camvid/trainannot/1.png": packed(picture())}, r"trainannot/1\.png: pixel type RGB"),
        (
            {"camvid/trainannot/1.png": packed(np.zeros((4, 5), np.uint8))},
            r"train/1\.png: the image is 4x6 \(HxW\), its annotation 4x5",
        ),
        ({"camvid/train/2.png": packed(picture())}, r"train/2\.png: has no annotation"),
        ({"camvid/testannot/2.png": b""}, r"testannot/2\.png: has no image"),
        ({"camvid/test/0.webp": b""}, r"test/0\.png: another file"),
    ],
)
def test_bad_annotations(tmp_path, spoil, message):
    lay_out(tmp_path, street() | spoil, "camvid")
    refused(message, "camvid", tmp_path / "x", tmp_path, size=(8, 12))


def test_camvid_without_images(tmp_path):
    (tmp_path / "camvid/train").mkdir(parents=True)
    refused("train: holds no images", "camvid", tmp_path / "x", tmp_path)


@pytest.mark.parametrize("name", ["/train/a/0.png", "../a.png", "train/../../a.png", "train\\..\\..\\a.png", "C:/a.png"])
def test_zip_entries_outside_the_archive_are_refused(tmp_path, name):
    lay_out(tmp_path, pets() | {name: b""}, "pets")
    refused("points outside", "folder:pets", tmp_path / "x", tmp_path, size=4)


def test_symbolic_links_and_encrypted_entries_in_zips_are_refused(tmp_path):
    link = zipfile.ZipInfo("pets/train/a/9.png")
    link.external_attr = 0o120777 << 16
    lay_out(tmp_path, pets(), "pets")
    with zipfile.ZipFile(tmp_path / "pets.zip", "a") as archive:
        archive.writestr(link, "/etc/hostname")
    refused("symbolic link", "folder:pets", tmp_path / "x", tmp_path, size=4)
    lay_out(tmp_path, {"only/one.png": b"x"}, "locked")
    content = bytearray((tmp_path / "locked.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    refused("encrypted", "folder:locked", tmp_path / "x", tmp_path, size=4)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/0.png", bytes(LARGEST_RATIO * 40_000))
    refused("over the limit", "folder:pets", tmp_path / "x", tmp_path, size=4)
    lay_out(tmp_path, pets(), "pets")
    monkeypatch.setattr("fgp.data.archive.LARGEST_TOTAL", 100)
    refused("unpacks to more than", "folder:pets", tmp_path / "x", tmp_path, size=4)
    monkeypatch.setattr("fgp.data.archive.LARGEST_ENTRY", 100)
    refused("over the limit", "folder:pets", tmp_path / "x", tmp_path, size=4)


def test_images_with_too_many_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fgp.data.decode._MOST_PIXELS", 20)
    lay_out(tmp_path, pets())
    refused("6x4 pixels, over the limit", "folder:pets", tmp_path / "x", tmp_path, size=4)


def test_truncated_and_damaged_zips_are_refused(tmp_path):
    lay_out(tmp_path, pets(), "pets")
    whole = (tmp_path / "pets.zip").read_bytes()
    (tmp_path / "pets.zip").write_bytes(whole[:-40])
    refused(r"pets\.zip: not a whole zip", "folder:pets", tmp_path / "x", tmp_path, size=4)
    damaged = bytearray(whole)
    damaged[60] ^= 255
    (tmp_path / "pets.zip").write_bytes(damaged)
    refused("cannot be unpacked", "folder:pets", tmp_path / "x", tmp_path, size=4)


def test_zip_and_folder_list_the_same(tmp_path):
    from fgp.data.archive import FolderArchive

    lay_out(tmp_path, pets(), "pets")
    lay_out(tmp_path, pets())
    assert ZipArchive(tmp_path / "pets.zip").names == FolderArchive(tmp_path / "pets").names


def test_command_line(tmp_path, capsys):
    out = str(tmp_path / "x")
    words = [
        "data",
        "--source",
        "digits",
        "--size",
        "8",
        "--classes",
        "3",
        "--train-limit",
        "9",
        "--test-limit",
        "6",
        "--out",
        out,
    ]
    assert main(words) == 0
    assert "9 train, 6 test, 3x8x8, 3 classes" in capsys.readouterr().out
    assert (
        main(["data", "--source", "scenes", "--size", "20", "30", "--train-limit", "2", "--test-limit", "1", "--out", out]) == 0
    )
    assert load(out).test.images.shape == (1, 3, 20, 30)
    assert main(["data", "--source", "digit", "--out", out]) == 1
    assert "did you mean digits" in capsys.readouterr().err


def test_preparing_an_image_folder_does_not_load_torch(tmp_path):
    lay_out(tmp_path, pets())
    code = "import sys; from fgp.data import prepare; prepare('folder:pets', sys.argv[1] + '/x', sys.argv[1], size=4); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules", str(tmp_path)], check=True)
