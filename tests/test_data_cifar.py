"""The official CIFAR python archive, read through torchvision."""

import hashlib
import pickle

import numpy as np
import pytest
import torch

from fgp.data import load, prepare
from fgp.errors import FgpError


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """A CIFAR-100 archive of twelve training and six test images, with torchvision's checksums changed to match."""
    from torchvision.datasets import CIFAR100

    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = {"train": rng.integers(0, 256, (12, 3072), dtype=np.uint8), "test": rng.integers(0, 256, (6, 3072), dtype=np.uint8)}
    content = {name: {"data": data, "fine_labels": [n % 3 for n in range(len(data))]} for name, data in pixels.items()}
    content["meta"] = {"fine_label_names": ["apple", "bee", "cup"]}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in content}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return pixels


def test_cifar_python_archive(tmp_path, small_cifar100):
    prepare("cifar100", tmp_path / "x", tmp_path)
    data = load(tmp_path / "x")
    assert torch.equal(data.train.images, torch.from_numpy(small_cifar100["train"]).view(12, 3, 32, 32))
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.classes == ("apple", "bee", "cup")


def test_cifar_archive_with_another_checksum_is_refused(tmp_path, small_cifar100):
    with open(tmp_path / "cifar-100-python" / "test", "ab") as file:
        file.write(b"x")
    with pytest.raises(FgpError, match="checksum differs"):
        prepare("cifar100", tmp_path / "x", tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    with pytest.raises(FgpError, match=r"cifar-10-python\.tar\.gz: its checksum differs"):
        prepare("cifar10", tmp_path / "x", tmp_path)
