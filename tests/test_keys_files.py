"""Keys of stages and files: those in the data root, and the keys that results of an earlier run hold."""

import os
import shutil

import pytest
import torch
from fgp_workflow.keys import Keys, halves, recorded
from test_keys import CONFIG, MACS, READS, SETTINGS, VGG, all_keys, changed, experiment, following, of, set_in, stage

import fgp
from fgp import tensorfiles
from fgp.data.listing import DOWNLOADED
from fgp.files import write_sealed
from fgp.models import build


@pytest.fixture(scope="module")
def before():
    return all_keys()


@pytest.fixture
def own_images(tmp_path):
    """A data root with two images, and the configuration that reads them."""
    for name in ("train/cat/1.png", "test/cat/1.png"):
        path = tmp_path / "root/small" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"an image")
        os.utime(path, (1, 1))
    return tmp_path / "root", set_in(CONFIG, "datasets/digits32", {"source": "folder:small", "size": 32})


def at(root, config):
    return all_keys(config | {"data_root": str(root)})


def _new_file(folder):
    (folder / "train/cat/2.png").write_bytes(b"")


def _rename(folder):
    (folder / "train/cat").rename(folder / "train/dog")


def _size(folder):
    (folder / "train/cat/1.png").write_bytes(b"an image more")
    os.utime(folder / "train/cat/1.png", (1, 1))


@pytest.mark.parametrize(
    "change", [_new_file, _rename, _size, lambda folder: os.utime(folder / "train/cat/1.png", (1, 2)), shutil.rmtree]
)
def test_other_files_in_the_data_root_change_the_data_and_what_follows(own_images, change):
    root, config = own_images
    before = at(root, config)
    change(root / "small")
    assert changed(before, at(root, config), 0) == following(of(VGG, "data"))


def test_the_same_files_elsewhere_are_the_same(own_images, tmp_path, monkeypatch):
    root, config = own_images
    before = at(root, config)
    shutil.copytree(root, tmp_path / "moved")
    (tmp_path / "moved/other").mkdir()
    (tmp_path / "moved/other/unread.png").write_bytes(b"of another data set")
    assert at(tmp_path / "moved", config) == before
    monkeypatch.setenv("FGP_DATA", str(tmp_path / "moved"))
    assert all_keys(config) == before
    monkeypatch.delenv("FGP_DATA")
    assert all_keys(config) != before


def test_an_archive_that_a_download_made_changes_nothing(tmp_path):
    config = set_in(CONFIG, "datasets/digits32", {"source": "cifar10"})
    before = at(tmp_path, config)
    archive = tmp_path / "cifar10/cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"all of it")
    os.utime(archive, (DOWNLOADED, DOWNLOADED))
    assert at(tmp_path, config) == before
    os.utime(archive, (1, 1))
    assert changed(before, at(tmp_path, config), 0) == following(of(VGG, "data"))


def old(key):
    """A key of the same settings and other code."""
    return f"{halves(key)[0]}-0123456789ab"


def test_recorded_keys_are_found_in_results_of_every_stage(tmp_path):
    said = {name: f"{i:012}-0123456789ab" for i, name in enumerate(("data", "reach", "speed", "own", "scores", "cell", "pruned"))}
    network = build("vgg16", 10, 1 / 16)
    seed = tmp_path / VGG / "seed0"
    for path, key in (
        (tmp_path / "data/digits.safetensors", said["data"]),
        (seed / "slimming/sparse/model.safetensors", said["own"]),
        (seed / "fgp" / MACS / "model.safetensors", said["cell"]),
        (seed / "thinet" / MACS / "model.safetensors", "000000000010-0"),  # its metrics are gone
        (seed / "fgp" / MACS / "pruned.safetensors", said["pruned"]),
    ):
        fgp.save(network, path, provenance={"key": key})
    tensorfiles.write(seed / "fgp/scores.safetensors", {"a": torch.ones(1)}, {"provenance": {"key": said["scores"]}})
    for path, key in (
        (tmp_path / VGG / "budgets.json", said["reach"]),
        (seed / "latency.json", said["speed"]),
        (seed / "fgp" / MACS / "metrics.json", said["cell"]),
        (seed / "slimming/sparse/metrics.json", said["own"]),
        (seed / "aofp" / MACS / "metrics.json", "000000000011-0"),  # its network is gone
        (seed / "dense/unpruned/metrics.json", None),
    ):
        write_sealed(path, {"provenance": {"key": key}})
    (seed / "l1" / MACS).mkdir(parents=True)
    (seed / "l1" / MACS / "metrics.json").write_text('{"provenance": {"key": "000000000009-0"}, "seal": "wrong"}')
    (seed / "l1" / MACS / "model.safetensors").write_text("half a file")
    assert recorded(str(tmp_path)) == {halves(key)[0]: key for key in said.values()}
    assert recorded(str(tmp_path / "absent")) == {}


def test_recorded_keys_stay_and_what_is_new_follows_from_them(before):
    dense = f"{VGG} train dense"
    kept = {halves(before[dense])[0]: old(before[dense])}
    keys = Keys(experiment(), kept)
    after = {name: stage(keys, name).key for name in READS}
    assert after[dense] == old(before[dense])
    assert changed(before, after, 0) == set()
    assert changed(before, after, 1) == following({dense})
    again = Keys(experiment(), {halves(key)[0]: key for key in after.values()})
    assert {name: stage(again, name).key for name in READS} == after


def test_a_recorded_key_of_other_settings_is_not_taken(before):
    kept = {halves(key)[0]: old(key) for key in before.values()}
    config = set_in(CONFIG, "recipes/short/lr", 0.2)
    keys = Keys(experiment(config), kept)
    after = {name: stage(keys, name).key for name in READS}
    tuned = following(SETTINGS["recipes/short/lr"][1])
    assert {name for name in READS if after[name] == old(before[name])} == set(READS) - tuned
    plain = all_keys(config)
    assert {name for name in tuned if halves(after[name])[0] == halves(plain[name])[0]} == tuned
    assert changed(plain, {name: after[name] for name in tuned}, 1) == tuned
