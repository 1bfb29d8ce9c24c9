"""Small networks for the scoring tests, each with one trait that hooks and autograd stumble over."""

import torch
import torch.nn.functional as F
from reference_fgp import randomise
from torch import nn
from torch.nn.functional import interpolate

OUTPUTS = 4


class Plain(nn.Module):
    """No normalisation: the in-place ReLU overwrites the convolution's output."""

    def __init__(self, outputs=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.relu_a, self.relu_b = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.linear = nn.Linear(6, outputs)

    def forward(self, x):
        x = self.relu_a(self.a(x))
        x = self.relu_b(self.b(x))
        return self.linear(x.mean((2, 3)))


class Residual(nn.Module):
    """Residual sum written in place onto a normalised map; ReLU as modules or as functions. Classification or segmentation."""

    def __init__(self, functional=False, segmentation=False, outputs=4):
        super().__init__()
        self.functional = functional
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
        self.relu0, self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(), nn.ReLU(inplace=True)
        self.head = nn.Conv2d(6, outputs, 1) if segmentation else nn.Linear(6, outputs)

    def forward(self, images):
        x = self.norm0(self.stem(images))
        x = F.relu(x, inplace=True) if self.functional else self.relu0(x)
        y = self.norm1(self.conv1(x))
        y = F.relu(y) if self.functional else self.relu1(y)
        y = self.norm2(self.conv2(y))
        y += x
        y = y.relu_() if self.functional else self.relu2(y)
        if isinstance(self.head, nn.Linear):
            return self.head(y.mean((2, 3)))
        return F.interpolate(self.head(F.max_pool2d(y, 2)), images.shape[2:], mode="bilinear")


POSTRELU = {"stem": "relu0", "conv1": "relu1", "conv2": "norm2"}


def residual(functional=False, segmentation=False):
    torch.manual_seed(0)
    return randomise(Residual(functional, segmentation).double())


def plain():
    torch.manual_seed(0)
    return Plain().double().eval()


def classification(count=5, size=8, outputs=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return images, torch.randint(outputs, (count,), generator=generator)


def segmentation(count=3, size=8, outputs=4, seed=1):
    """Random labels with void; no class is in every image, one image is all void."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(outputs - 1, (count, size, size), generator=generator)
    labels[0][labels[0] == 0] = outputs - 1
    labels[:, :2] = 255
    labels[1] = 255
    labels[2][labels[2] == 2] = 1
    return images, labels


class Tail(nn.Module):
    """Logits of images, or of pixels by a convolution without normalisation."""

    def __init__(self, channels, task):
        super().__init__()
        self.last = nn.Linear(channels, OUTPUTS) if task == "classification" else nn.Conv2d(channels, OUTPUTS, 1)

    def forward(self, x, size):
        if isinstance(self.last, nn.Linear):
            return self.last(x.mean((2, 3)))
        return interpolate(self.last(x), size, mode="bilinear")


class Pointwise(nn.Module):
    """Biases in front of normalisations, a 1x1 convolution, a ReLU in place and a stride."""

    def __init__(self, task):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
        self.conv3, self.norm3 = nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU()
        self.tail = Tail(5, task)

    def forward(self, images):
        x = self.relu1(self.norm1(self.conv1(images)))
        x = self.relu2(self.norm2(self.conv2(x)))
        x = self.relu3(self.norm3(self.conv3(x)))
        return self.tail(x, images.shape[2:])


class Unpooled(nn.Module):
    """SegNet in small: the maxima of conv1's maps say where those of conv3 go, so the two share their channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3, self.norm3 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv4 = nn.Conv2d(5, OUTPUTS, 3, padding=1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, images):
        x, places = self.pool(self.relu1(self.norm1(self.conv1(images))))
        x = self.relu2(self.norm2(self.conv2(x)))
        x = self.relu3(self.norm3(self.conv3(x)))
        return self.conv4(self.unpool(x, places))
