"""A small segmentation network with an auxiliary head, data for it, and runs that are interrupted."""

import pytest
import torch
from reference_fgp import randomise
from torch import nn

from fgp.data import Dataset, Split
from fgp.train import Recipe, fit
from fgp.train.hooks import Run
from fgp.train.resume import Checkpoint

VOID = 255
RECIPE = Recipe(epochs=4, batch_size=3, lr=0.05, schedule="poly")


class Tiny(nn.Module):
    """Encoder and head by name, a residual sum, an auxiliary head."""

    def __init__(self, kernel=3, outputs=4):
        super().__init__()
        pad = kernel // 2
        self.stem = nn.Sequential(nn.Conv2d(3, 6, kernel, padding=pad), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(nn.Conv2d(6, 5, kernel, padding=pad), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(5, 6, kernel, padding=pad), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Conv2d(6, 7, kernel, padding=pad), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, outputs, 1))
        self.auxiliary = nn.Conv2d(6, outputs, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.layer2(self.layer1(x)) + x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def tiny(kernel=3, seed=0):
    torch.manual_seed(seed)
    return randomise(Tiny(kernel))


def dataset(count=6, outputs=4, size=(8, 10)):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    labels = (images[:, 0].long() * 3 // 256).byte()
    labels[:, :, 0] = VOID
    split = Split(images, labels)
    return Dataset(split, split, tuple("abc"), outputs, (0.5,) * 3, (0.25,) * 3, "segmentation", VOID, "test")


def run_of(model, steps=3, count=2):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (count, 8, 8), generator=generator)
    batches = [(torch.randn(count, 3, 8, 8, generator=generator), labels)]
    return Run(model.train(), batches, steps, steps, 4, "segmentation", 0, torch.device("cpu"))


def train(hook, model=None, **options):
    model = model or tiny()
    fit(model, dataset().train, dataset(), RECIPE, 0, "cpu", hook=hook, **options)
    return model


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def interrupted(make, tmp_path):
    """Train four epochs, stopped after the second and taken up by a new hook and a new network."""
    hook = make()
    after = hook.after_epoch

    def stop(epoch):
        after(epoch)
        if epoch == 3:
            raise KeyboardInterrupt

    hook.after_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        train(hook, checkpoint=Checkpoint(tmp_path / "out", "key", seconds=0))
    hook = make()
    return hook, train(hook, tiny(seed=5), checkpoint=Checkpoint(tmp_path / "out", "key", seconds=0))


def assert_resumes(make, tmp_path):
    """Assert that an interrupted run ends with the weights and scores of one that was not."""
    straight = make()
    expected = train(straight)
    hook, model = interrupted(make, tmp_path)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    if hasattr(hook, "scores"):
        for name, value in straight.scores().items():
            assert torch.equal(hook.scores()[name], value), name
