"""The prepared file: writing, reading, refusing; batches and subsets."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from fgp import provenance, tensorfiles
from fgp.data import batches, load, prepare, read_header, subset
from fgp.data.choose import balanced, plain
from fgp.data.preparing import _statistics
from fgp.data.writer import SafetensorsWriter
from fgp.errors import FgpError

METADATA = {
    "source": "made up",
    "task": "classification",
    "classes": ["a", "b"],
    "outputs": 2,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "void": 255,
}


def tensors(segmentation=False):
    made = {}
    for split, count in (("train", 6), ("test", 4)):
        made[f"{split}.images"] = torch.randint(0, 256, (count, 3, 5, 7), dtype=torch.uint8)
        shape = (count, 5, 7) if segmentation else (count,)
        made[f"{split}.labels"] = torch.arange(count * (35 if segmentation else 1)).remainder(2).to(torch.uint8).view(shape)
    return made


def write(path, made, **metadata):
    tensorfiles.write(path, made, METADATA | metadata)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    prepare("digits", path, size=8)
    return path


def test_digits_match_scikit_learn(digits):
    from sklearn.datasets import load_digits

    raw, data, header = load_digits(), load(digits), read_header(digits)
    assert (len(data.train), len(data.test)) == (1437, 360)
    images = torch.cat([data.train.images, data.test.images])
    expected = torch.from_numpy(np.rint(raw.images / 16 * 255)).to(torch.uint8)
    assert all(torch.equal(images[:, channel], expected) for channel in range(3))
    assert torch.equal(torch.cat([data.train.labels, data.test.labels]).long(), torch.from_numpy(raw.target).long())
    assert header.shape == (3, 8, 8)
    assert header.counts == {"train": 1437, "test": 360}
    pixels = data.train.images[:, 0].double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()] * 3)
    assert data.std == pytest.approx([pixels.std(correction=0).item()] * 3)
    assert (data.task, data.outputs, data.void, data.source) == ("classification", 10, 255, "digits")
    assert header.metadata["options"]["seed"] == 0
    assert "versions" in header.metadata["provenance"]


def test_the_provenance_tells_the_content(digits, tmp_path):
    def content(**options):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        prepare("digits", path, size=8, **options)
        (stage,) = provenance.chain(provenance.read(path))
        return stage["digest"]

    limited = {"train_limit": 20, "test_limit": 10}
    assert content() == read_header(digits).metadata["digest"]
    assert len({content(), content(classes=10), content(**limited), content(**limited, seed=1)}) == 3


def test_default_size_of_digits_is_32(tmp_path):
    prepare("digits", tmp_path / "x", train_limit=10, test_limit=10)
    assert load(tmp_path / "x").train.images.shape == (10, 3, 32, 32)


def test_streamed_file_reads_like_a_plain_one(tmp_path):
    made = {"long": np.arange(5), "image": np.arange(60, dtype=np.uint8).reshape(5, 3, 4)}
    with open(tmp_path / "x", "wb") as file:
        writer = SafetensorsWriter(file, {"image": (np.uint8, (5, 3, 4)), "long": (np.int64, (5,))}, {"mean": 0})
        for index in range(5):
            writer.append("image", made["image"][index])
            writer.append("long", made["long"][index])
        writer.finish({"mean": 0.123456789})
    with safetensors.safe_open(tmp_path / "x", "pt") as file:
        assert all(np.array_equal(file.get_tensor(name).numpy(), values) for name, values in made.items())
    tensorfiles.write(tmp_path / "y", {name: torch.from_numpy(values) for name, values in made.items()}, {"mean": 0.123456789})
    plain, streamed = (tensorfiles.read(tmp_path / name) for name in "yx")
    assert streamed[1] == plain[1] == {"mean": 0.123456789, "digest": plain[1]["digest"]}


def test_writer_refuses_too_little_and_too_much(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        writer = SafetensorsWriter(file, {"t": (np.uint8, (2,))}, {})
        writer.append("t", np.zeros(1, np.uint8))
        with pytest.raises(ValueError, match="incomplete"):
            writer.finish({})
        with pytest.raises(ValueError, match="does not fit"):
            writer.append("t", np.zeros(2, np.uint8))


def test_statistics_match_the_literal_ones():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 500))
    pixels[1] = 7
    mean, std = _statistics(np.stack([np.bincount(channel, minlength=256) for channel in pixels]))
    assert mean == pytest.approx(pixels.mean(axis=1) / 255)
    assert std == pytest.approx([pixels[0].std() / 255, 1 / 255, pixels[2].std() / 255])


@pytest.mark.parametrize("segmentation", [False, True])
def test_load_accepts_a_sound_file(tmp_path, segmentation):
    made = tensors(segmentation)
    if segmentation:
        made["train.labels"][0, 0, 0] = 255
    task = "segmentation" if segmentation else "classification"
    data = load(write(tmp_path / "x", made, task=task, outputs=12))
    assert torch.equal(data.train.images, made["train.images"])
    assert torch.equal(data.test.labels, made["test.labels"])


def change(made, name, value):
    made[name] = value


@pytest.mark.parametrize(
    ("spoil", "metadata", "message"),
    [
        (lambda made: made["train.labels"].fill_(2), {}, r"train\.labels holds 2, but there are 2 classes"),
        (lambda made: made["test.labels"].fill_(255), {}, r"test\.labels holds 255"),
        (lambda made: change(made, "train.labels", made["train.labels"].long()), {}, r"train\.labels should be U8"),
        (lambda made: change(made, "train.labels", made["train.labels"][:5].clone()), {}, r"should be U8 \[6\], found U8 \[5\]"),
        (lambda made: change(made, "test.images", torch.zeros(4, 3, 5, 6, dtype=torch.uint8)), {}, r"test\.images should be"),
        (lambda made: change(made, "train.images", torch.zeros(6, 1, 5, 7, dtype=torch.uint8)), {}, "test.images should be|not"),
        (lambda made: made.pop("test.labels"), {}, "found nothing"),
        (lambda made: made.pop("test.images"), {}, "not a data file"),
        (lambda made: None, {"task": "regression"}, "task 'regression'"),
        (lambda made: None, {"task": "segmentation"}, r"should be U8 \[6, 5, 7\]"),
        (lambda made: None, {"mean": [0, 0.5]}, "not a data file"),
        (lambda made: None, {"outputs": 1}, "2 classes for 1 outputs"),
        (lambda made: None, {"std": [0, 1, 1]}, "std above 0"),
        (lambda made: None, {"mean": None}, "not a data file"),
        (lambda made: None, {"void": 0}, "void label"),
    ],
)
def test_inconsistent_file_is_refused(tmp_path, spoil, metadata, message):
    made = tensors()
    spoil(made)
    with pytest.raises(FgpError, match=message) as caught:
        load(write(tmp_path / "odd.safetensors", made, **metadata))
    assert "odd.safetensors" in str(caught.value)


def test_truncated_foreign_and_missing_files_are_refused(tmp_path):
    whole = write(tmp_path / "whole", tensors()).read_bytes()
    contents = [b"", whole[:5], whole[:100], whole[:-1], whole + b"x", b"PK" * 200, (2**40).to_bytes(8, "little") + whole[8:]]
    for content in contents:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(FgpError, match="bad"):
            read_header(tmp_path / "bad")
    safetensors.torch.save_file(tensors(), tmp_path / "bad")
    with pytest.raises(FgpError, match="not a data file of fgp"):
        load(tmp_path / "bad")
    with pytest.raises(FgpError, match="no such file; make it with `fgp data`"):
        load(tmp_path / "absent")


def test_header_is_read_without_torch(digits):
    code = "import sys; from fgp.data import read_header; read_header(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(digits)], check=True)


def test_batches_are_normalised_in_order_and_repeatable(tmp_path):
    made = tensors(segmentation=True)
    made["train.labels"][:, 0] = 255
    data = load(write(tmp_path / "x", made, task="segmentation", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]))
    run = batches(data.train, data, 4)
    first, second = list(run), list(run)
    assert len(run) == len(first) == 2
    assert [len(images) for images, _ in first] == [4, 2]
    images, labels = torch.cat([images for images, _ in first]), torch.cat([labels for _, labels in first])
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    for n, channel in ((0, 0), (5, 2)):
        expected = (made["train.images"][n, channel] / 255 - data.mean[channel]) / data.std[channel]
        assert torch.allclose(images[n, channel], expected)
    assert torch.equal(labels, made["train.labels"].long())
    assert all(torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True))
    with pytest.raises(FgpError, match="batch_size 0"):
        batches(data.train, data, 0)


def test_subset_is_balanced_nested_and_seeded(digits):
    train = load(digits).train
    small, large = subset(train, per_class=3, seed=1), subset(train, per_class=5, seed=1)
    assert torch.bincount(small.labels).tolist() == [3] * 10
    pictures = {image.numpy().tobytes() for image in large.images}
    assert all(image.numpy().tobytes() in pictures for image in small.images)
    assert not torch.equal(small.images, subset(train, per_class=3, seed=2).images)
    assert torch.equal(small.images, subset(train, per_class=3, seed=1).images)
    assert len(small.labels.unique_consecutive()) > 10, "classes should be mixed"
    assert sorted(torch.bincount(subset(train, limit=25).labels).tolist()) == [2] * 5 + [3] * 5
    assert len(subset(train, limit=10**6)) == len(train)


def test_subset_of_segmentation_is_plain(tmp_path):
    split = load(write(tmp_path / "x", tensors(segmentation=True), task="segmentation")).train
    chosen = subset(split, limit=2, seed=3)
    order = np.random.default_rng(3).permutation(6)[:2]
    assert torch.equal(chosen.images, split.images[order])
    assert torch.equal(chosen.labels, split.labels[order])
    with pytest.raises(FgpError, match="no single class"):
        subset(split, per_class=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"per_class": 1, "limit": 1}, "exactly one"),
        ({"per_class": 0}, "at least 1"),
        ({"limit": 0}, "at least 1"),
        ({"limit": 9}, "fewer than the 10 classes"),
        ({"per_class": 1000}, "has only"),
    ],
)
def test_impossible_subset_is_refused(digits, arguments, message):
    with pytest.raises(FgpError, match=message):
        subset(load(digits).train, **arguments)


def test_balanced_matches_the_literal_choice():
    labels = np.random.default_rng(0).choice(4, 200, p=[0.5, 0.3, 0.15, 0.05])
    order = np.random.default_rng(9).permutation(200)
    taken = {label: [index for index in order if labels[index] == label][:5] for label in range(4)}
    expected = [index for index in order if index in taken[labels[index]]]
    assert balanced(labels, 9, per_class=5).tolist() == expected
    everything = balanced(labels, 9, limit=120)
    counts = np.bincount(labels[everything])
    assert counts.sum() == len(set(everything.tolist())) == 120
    assert counts[3] == (labels == 3).sum()
    assert abs(counts[0] - counts[1]) <= 1
    assert sorted(plain(10, 0, 99)) == list(range(10))
