"""The official CIFAR python archive: pickles, and a tar."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from strategies import broken, damaged, fuzz, outcome
from torchvision.datasets import CIFAR100

from fgp.data import load, prepare

FILES = ("train", "test", "meta")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def content():
    made = {
        name: {"data": np.zeros((count, 3072), np.uint8).tolist(), "fine_labels": list(range(count))}
        for name, count in (("train", 3), ("test", 3))
    }
    return made | {"meta": {"fine_label_names": ["apple", "bee", "cup"]}}


def arrays(values):
    """Turn the lists of pixels into arrays, where they still are such."""
    for value in values.values():
        if isinstance(value, dict) and isinstance(pixels := value.get("data"), list):
            try:
                value["data"] = np.array(pixels, np.uint8)
            except (ValueError, TypeError, OverflowError):
                value["data"] = pixels
    return values


def put(folder, files, monkeypatch=None):
    """Write the files; with `monkeypatch` their checksums count as the official ones."""
    below = folder / "cifar-100-python"
    below.mkdir(exist_ok=True)
    for name, data in files.items():
        (below / name).write_bytes(data)
    if monkeypatch:
        sums = {name: hashlib.md5((below / name).read_bytes()).hexdigest() for name in FILES}
        monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
        monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
        monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return below


def prepared(path):
    prepare("cifar100", path.parent / "out" / "x", path.parent)
    return load(path.parent / "out" / "x")


def read(below):
    (below.parent / "out").mkdir(exist_ok=True)
    data = outcome(prepared, below)
    if data:
        assert data.train.images.shape[1:] == (3, 32, 32)
        (below.parent / "out" / "x").unlink()
    assert not os.listdir(below.parent / "out")
    return data


VALID = {name: pickle.dumps(value) for name, value in arrays(content()).items()}


@pytest.mark.parametrize("protocol", range(2, 5))
def test_the_valid_files_are_read(tmp_path, monkeypatch, protocol):
    below = put(tmp_path, {name: pickle.dumps(value, protocol) for name, value in arrays(content()).items()}, monkeypatch)
    assert read(below).classes == ("apple", "bee", "cup")


@fuzz(50, st.sampled_from(FILES), st.data())
def test_any_change_is_refused_by_its_checksum(tmp_path, name, data):
    with pytest.MonkeyPatch.context() as patch:
        below = put(tmp_path, VALID, patch)
        changed = data.draw(damaged(VALID[name]).filter(lambda changed: changed != VALID[name]))
        assert read(put(tmp_path, {name: changed})) is None
        assert below.is_dir()


@fuzz(150, st.sampled_from(FILES), st.data())
def test_damaged_pickles_with_a_right_checksum(tmp_path, name, data):
    with pytest.MonkeyPatch.context() as patch:
        read(put(tmp_path, VALID | {name: data.draw(damaged(VALID[name]))}, patch))


@fuzz(100, broken({name: {key: value for key, value in part.items() if key != "data"} for name, part in content().items()}))
def test_wrong_values_with_a_right_checksum(tmp_path, values):
    if not isinstance(values, dict):
        return
    for name in ("train", "test"):
        if isinstance(values.get(name), dict):
            values[name].setdefault("data", content()[name]["data"])
    with pytest.MonkeyPatch.context() as patch:
        read(put(tmp_path, VALID | {name: pickle.dumps(value) for name, value in arrays(values).items() if name in FILES}, patch))


@pytest.mark.parametrize("right_checksum", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_nothing_is_executed(tmp_path, monkeypatch, name, right_checksum):
    put(tmp_path, VALID, monkeypatch)
    evil = pickle.dumps(Evil(tmp_path / "executed"))
    assert read(put(tmp_path, {name: evil}, monkeypatch if right_checksum else None)) is None
    assert not (tmp_path / "executed").exists()
    pickle.loads(evil)
    assert (tmp_path / "executed").exists(), "the test's own pickle is harmless"


def test_a_tar_that_is_not_the_official_one_is_not_opened(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, target in (
            ("../outside", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard", tarfile.LNKTYPE, "../x"),
            ("device", tarfile.CHRTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry, io.BytesIO())
    assert outcome(lambda path: prepare("cifar100", path.parent / "x", path.parent), path) is None
    assert os.listdir(tmp_path) == [path.name]
