"""Networks whose convolutions share channels, and short runs, for methods that score coupled layers as one."""

import torch
import torch.nn.functional as F
from reference_fgp import randomise
from test_train_loop import classification as dataset_of
from torch import nn

import baselines
import fgp
from fgp.models import build
from fgp.train import fit


class Block(nn.Module):
    """A residual block whose branch and shortcut read the same channels; those of the sum are read twice by a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv1, self.norm1 = nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 1)
        self.shortcut, self.norm2 = nn.Conv2d(5, 6, 1, stride=2), nn.BatchNorm2d(6)
        self.linear = nn.Linear(12, 4)

    def forward(self, images):
        x = torch.relu(self.norm0(self.stem(images)))
        y = self.conv2(torch.relu(self.norm1(self.conv1(x)))) + self.norm2(self.shortcut(x))
        return self.linear(F.adaptive_avg_pool2d(torch.relu(y), (1, 2)).flatten(1))


# {leader: (members, layers that read the group, what goes with a channel besides, positions a member computes)}, by hand
BLOCK = {
    "stem": (["stem"], ["conv1", "shortcut"], ["norm0"], 64),
    "conv1": (["conv1"], ["conv2"], ["norm1"], 16),
    "conv2": (["conv2", "shortcut"], ["linear"], ["norm2"], 16),
}
RESIDUAL = {
    "stem": (["stem", "conv2"], ["conv1", "head"], ["norm0", "norm2"], 64),
    "conv1": (["conv1"], ["conv2"], ["norm1"], 64),
}


def block():
    torch.manual_seed(0)
    return randomise(Block().double())


def two_batches(data):
    images, labels = data
    return [(images[:2], labels[:2]), (images[2:], labels[2:])]


def totals(name, model, batches, **options):
    """Scores of whole groups, as the selections see them."""
    return fgp.prunable(baselines.get(name).score(model, batches, 0, **options), model, batches[0][0], tied=True)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name].double(), values.double(), rtol=1e-5, atol=0, msg=name)


def toy(count=40):
    return dataset_of(count=count, side=32)


def network():
    torch.manual_seed(0)
    return build("vgg16", 4, 1 / 16)


def train(model, recipe, hook, **options):
    dataset = toy()
    return fit(model, dataset.train, dataset, recipe, 0, "cpu", hook=hook, **options)
