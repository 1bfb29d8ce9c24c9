"""Checkpoints of an unfinished training: whatever is wrong with one, the training starts anew."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from strategies import broken, damaged, fuzz

from fgp.train.resume import Checkpoint


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def saved(state, **options):
    content = io.BytesIO()
    torch.save(state, content, **options)
    return content.getvalue()


STATE = {"key": "k", "epoch": 1, "model": {"a": torch.ones(3)}, "history": [{"loss": 0.5}]}
VALID = {new: saved(STATE, _use_new_zipfile_serialization=new) for new in (True, False)}


def load(folder, content):
    (folder / "m.checkpoint").write_bytes(content)
    return Checkpoint(folder / "m", "k").load()


@pytest.mark.parametrize("new", VALID)
def test_the_valid_file_is_read(tmp_path, new):
    assert load(tmp_path, VALID[new])["epoch"] == 1


@fuzz(150, st.sampled_from([True, False]).flatmap(lambda new: damaged(VALID[new])))
def test_damaged(tmp_path, content):
    state = load(tmp_path, content)
    assert state is None or state["key"] == "k"


@fuzz(100, broken({"key": "k", "epoch": 1, "history": [{"loss": 0.5}]}), st.booleans())
def test_other_values(tmp_path, value, plain):
    state = load(tmp_path, pickle.dumps(value, 2) if plain else saved(value))
    assert state is None or state["key"] == "k"


@pytest.mark.parametrize("how", ["plain", "zip", "legacy", "inside", "swapped"])
def test_nothing_is_executed(tmp_path, how):
    evil = Evil(tmp_path / "executed")
    content = {
        "plain": pickle.dumps(evil),
        "zip": saved(evil),
        "legacy": saved(evil, _use_new_zipfile_serialization=False),
        "inside": saved({**STATE, "more": evil}),
        "swapped": swapped(pickle.dumps(evil, 2)),
    }[how]
    assert load(tmp_path, content) is None
    assert not (tmp_path / "executed").exists()


def swapped(pickled):
    """A sound file whose pickle is another."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(VALID[True])) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return content.getvalue()


def test_the_one_before_serves_when_the_last_is_damaged(tmp_path):
    (tmp_path / "m.checkpoint.previous").write_bytes(VALID[True])
    assert load(tmp_path, b"")["epoch"] == 1
