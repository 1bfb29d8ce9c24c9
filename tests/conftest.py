import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real CIFAR-10 and CamVid, named by $FGP_DATA."""
    root = os.environ.get("FGP_DATA")
    if root and (Path(root) / "cifar10.zip").exists() and (Path(root) / "camvid.zip").exists():
        return Path(root)
    if os.environ.get("CI"):
        pytest.fail("FGP_DATA names no folder with cifar10.zip and camvid.zip; in CI the tests on real data must run")
    pytest.skip("set FGP_DATA to a folder with cifar10.zip and camvid.zip to run this test")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A data file of some digits."""
    from fgp import data

    path = tmp_path_factory.mktemp("data") / "digits.safetensors"
    data.prepare("digits", path, train_limit=100, test_limit=60)
    return path


@pytest.fixture(scope="module")
def pruned(digits, tmp_path_factory):
    """A narrow VGG-16 without the last two channels of its first convolution."""
    import torch
    from torch import nn

    import fgp
    from fgp import data, models
    from fgp.train import Recipe, fit

    torch.manual_seed(0)
    model = models.build("vgg16", 10, 1 / 16)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)][:2]
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    for owner, names in ((convs[0], ("weight", "bias")), (norm, ("weight", "bias"))):
        for name in names:
            setattr(owner, name, nn.Parameter(getattr(owner, name).detach()[:2]))
    norm.running_mean, norm.running_var = norm.running_mean[:2] + 3, norm.running_var[:2]
    convs[1].weight = nn.Parameter(convs[1].weight.detach()[:, :2])
    convs[0].out_channels = norm.num_features = convs[1].in_channels = 2
    name = next(name for name, module in model.named_modules() if module is convs[0])
    dataset = data.load(digits)
    fit(model, dataset.train, dataset, Recipe(epochs=12, batch_size=16, lr=0.05), 0, "cpu")
    path = tmp_path_factory.mktemp("pruned") / "pruned.safetensors"
    fgp.save(model, path, plan={name: [0, 1]})
    return path
