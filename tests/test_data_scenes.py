"""Generated segmentation scenes."""

import numpy as np
import pytest
import torch

from fgp.data import load, prepare
from fgp.data.digits import read_digits
from fgp.data.header import VOID
from fgp.data.scenes import INSIDE, Placement, coverage, scenes
from fgp.data.source import Request
from fgp.errors import FgpError

BACKGROUND = 10


@pytest.fixture(scope="module")
def source():
    return scenes(Request(None))


def test_labels_are_the_rendered_digits(source):
    images, digit_labels, _ = read_digits()
    for index in range(30):
        scene = source.train.scene(index)
        expected = np.full((48, 64), BACKGROUND)
        for placement in scene.digits:
            cover = coverage(images[placement.digit], placement)
            for row, column in np.argwhere(cover > 0):
                inside = cover[row, column] >= INSIDE
                expected[placement.top + row, placement.left + column] = digit_labels[placement.digit] if inside else VOID
        assert np.array_equal(scene.labels, expected)
        assert scene.digits


def test_a_digit_is_lighter_than_its_background(source):
    scenes_drawn = [source.train.scene(index) for index in range(40)]
    light = np.concatenate([scene.image[scene.labels < BACKGROUND].max(axis=1) for scene in scenes_drawn])
    dark = np.concatenate([scene.image[scene.labels == BACKGROUND].max(axis=1) for scene in scenes_drawn])
    assert light.mean() > dark.mean() + 60


def test_an_upright_digit_fills_its_box_like_a_resized_picture():
    image = np.zeros((8, 8), np.uint8)
    image[:, 2:5] = 255
    cover = coverage(image, Placement(0, 0, 0, 40, 20, 0.0))
    assert np.all(cover[8:32, 7:11] == 1)
    assert not cover[8:32, :4].any()
    assert not cover[8:32, 15:].any()
    assert not cover[:2].any()
    tilted = coverage(image, Placement(0, 0, 0, 40, 20, 8.0))
    assert not np.array_equal(cover, tilted)
    assert tilted.sum() == pytest.approx(cover.sum(), rel=0.15)


def test_splits_share_no_digit(source):
    _, _, boundary = read_digits()
    for part, belongs in ((source.train, lambda digit: digit < boundary), (source.test, lambda digit: digit >= boundary)):
        drawn = [part.scene(index) for index in range(len(part))]
        digits = {placement.digit for scene in drawn for placement in scene.digits + scene.fragments}
        assert all(belongs(digit) for digit in digits)
        assert len(digits) > 200
        assert any(scene.fragments for scene in drawn)


def test_scenes_depend_on_seed_split_and_index_only(tmp_path):
    for name, limit, seed in (("a", 30, 0), ("b", 20, 0), ("c", 20, 1)):
        prepare("scenes", tmp_path / name, train_limit=limit, test_limit=12, seed=seed)
    a, b, c = (load(tmp_path / name) for name in "abc")
    assert torch.equal(a.train.images[:20], b.train.images)
    assert torch.equal(a.test.labels, b.test.labels)
    assert not torch.equal(b.train.labels, c.train.labels)
    assert not torch.equal(b.train.labels[:12], b.test.labels)


def test_prepared_scenes(tmp_path):
    prepare("scenes", tmp_path / "x")
    data = load(tmp_path / "x")
    assert data.train.images.shape == (600, 3, 48, 64)
    assert data.test.labels.shape == (150, 48, 64)
    assert (data.task, data.outputs, data.classes[-1]) == ("segmentation", 11, "background")
    share = torch.bincount(data.train.labels.flatten().long(), minlength=256) / data.train.labels.numel()
    assert 0.6 < share[BACKGROUND] < 0.9
    assert all(0.005 < share[digit] < 0.04 for digit in range(10))
    assert 0.01 < share[VOID] < 0.12


def test_scenes_of_another_size(tmp_path):
    prepare("scenes", tmp_path / "x", size=(70, 33), train_limit=3, test_limit=2)
    assert load(tmp_path / "x").train.labels.shape == (3, 70, 33)
    with pytest.raises(FgpError, match="16x16"):
        prepare("scenes", tmp_path / "y", size=15)
    for wrong in (1, 11):
        with pytest.raises(FgpError, match=f"classes {wrong}: .* the first 2 to 10"):
            prepare("scenes", tmp_path / "y", classes=wrong)
    assert not (tmp_path / "y").exists()


def test_scenes_of_the_first_digits(tmp_path):
    _, digit_labels, _ = read_digits()
    prepare("scenes", tmp_path / "x", classes=3, train_limit=60, test_limit=20)
    data = load(tmp_path / "x")
    assert (data.classes, data.outputs) == (("0", "1", "2", "background"), 4)
    for split in (data.train, data.test):
        assert set(split.labels.unique().tolist()) == {0, 1, 2, 3, VOID}
    share = torch.bincount(data.train.labels.flatten().long(), minlength=256) / data.train.labels.numel()
    assert share[3] > 0.5
    assert all(0.03 < share[digit] < 0.15 for digit in range(3))
    drawn = [scenes(Request(None, classes=3)).train.scene(index) for index in range(60)]
    assert {digit_labels[placement.digit] for scene in drawn for placement in scene.digits + scene.fragments} == {0, 1, 2}
    assert any(scene.fragments for scene in drawn)


def test_most_scenes_show_several_digits(source):
    counts = np.array([len(source.train.scene(index).digits) for index in range(100)])
    assert counts.max() <= 3
    assert (counts >= 2).mean() > 0.7
