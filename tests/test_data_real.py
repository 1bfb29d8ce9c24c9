"""CIFAR-10 and CamVid as they are."""

import numpy as np
import pytest
import torch

from fgp.data import load, prepare


@pytest.mark.data
@pytest.mark.slow
def test_cifar10(tmp_path, data_root):
    prepare("cifar10", tmp_path / "x", data_root)
    data = load(tmp_path / "x")
    assert data.train.images.shape == (50000, 3, 32, 32)
    assert data.test.images.shape == (10000, 3, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert " ".join(data.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)


@pytest.mark.data
def test_camvid(tmp_path, data_root):
    prepare("camvid", tmp_path / "x", data_root)
    data = load(tmp_path / "x")
    assert data.train.images.shape == (367, 3, 360, 480)
    assert data.test.labels.shape == (233, 360, 480)
    assert (len(data.classes), data.outputs) == (11, 12)
    for split in (data.train, data.test):
        share = torch.bincount(split.labels.flatten().long(), minlength=256).numpy() / split.labels.numel()
        largest = {data.classes[label] for label in np.argsort(share[:11])[-4:]}
        assert largest == {"road", "building", "sky", "tree"}
        assert share[:11].min() > 0.001
        assert 0.01 < share[255] < 0.06
        assert share[:11].sum() + share[255] == pytest.approx(1)
    sky = data.train.labels == data.classes.index("sky")
    assert sky[:, :180].sum() > 20 * sky[:, 180:].sum()
