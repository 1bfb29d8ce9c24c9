"""What stands in the place of a file or folder: nothing, a folder, a link, a pipe, a device."""

import os

import numpy as np
import pytest
from fgp_workflow import cells, collect
from fgp_workflow.inputs import read_experiment
from PIL import Image
from strategies import outcome, time_limit

import fgp
from fgp import provenance
from fgp.checkpoint import read_metadata
from fgp.data import load, prepare, read_header
from fgp.data.archive import FolderArchive, open_archive
from fgp.files import read_sealed
from fgp.metrics import read_metrics
from fgp.plans import load_plan
from fgp.scoring.files import load_scores
from fgp.train.resume import Checkpoint

READERS = (
    *(read_sealed, provenance.read, load_plan, read_metrics, read_metadata, fgp.load, load_scores, read_header, load),
    *(read_experiment, cells.read, collect.cell),
)
PLACES = {
    "nothing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty file": lambda path: path.touch(),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a folder": lambda path: path.symlink_to("/"),
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "below a file": lambda path: path.with_name("file").touch(),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("read", READERS, ids=lambda read: f"{read.__module__}.{read.__name__}")
def test_file(tmp_path, read, place):
    path = tmp_path / "thing"
    PLACES[place](path)
    if place == "below a file":
        path = tmp_path / "file" / "thing"
        with pytest.raises(fgp.FgpError, match="thing"), time_limit():
            read(path)
        return
    with time_limit():
        assert outcome(read, path) is None


@pytest.mark.parametrize("place", PLACES)
def test_checkpoint(tmp_path, place):
    PLACES[place](tmp_path / "m.checkpoint")
    with time_limit():
        assert Checkpoint(tmp_path / "m", "k").load() is None


@pytest.mark.parametrize("place", PLACES)
def test_archive(tmp_path, place):
    path = tmp_path / "pets.zip"
    PLACES[place](path)
    with time_limit():
        assert outcome(lambda path: open_archive(path.parent, "pets"), path) is None


@pytest.fixture
def pets(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        folder = tmp_path / "root" / "pets" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folder / "0.png")
    (tmp_path / "out").mkdir()
    return tmp_path / "root" / "pets"


def prepared(pets, name, match):
    with time_limit(), pytest.raises(fgp.FgpError, match=match) as caught:
        prepare(f"folder:{name}", pets.parents[1] / "out" / "x", pets.parent, size=4)
    assert not os.listdir(pets.parents[1] / "out")
    return str(caught.value)


@pytest.mark.parametrize("place", ["empty file", "dangling link", "link to itself", "pipe", "endless device"])
def test_image(tmp_path, pets, place):
    PLACES[place](pets / "train" / "a" / "1.png")
    prepared(pets, "pets", r"train/a/1\.png")


def test_links_that_lead_round_in_circles(pets):
    for n in range(12):
        (pets / "train" / f"again{n}").symlink_to("..")
    prepared(pets, "pets", "again")


def test_links_to_outside_are_followed_once(tmp_path, pets):
    (tmp_path / "root" / "linked").symlink_to("pets")
    prepare("folder:linked", tmp_path / "out" / "x", tmp_path / "root", size=4)
    assert len(load(tmp_path / "out" / "x").train) == 2


def test_a_file_too_large(pets):
    with open(pets / "train" / "a" / "1.png", "wb") as file:
        file.truncate(1 << 40)
    prepared(pets, "pets", r"train/a/1\.png")


def test_names_that_are_not_unicode(pets):
    os.mkdir(os.fsencode(pets) + b"/train/\xff")
    assert prepared(pets, "pets", "UTF-8").isprintable()


def test_deep_folders(pets):
    (pets / "/".join(["train", "a", *["d"] * 100])).mkdir(parents=True)
    assert FolderArchive(pets).names
