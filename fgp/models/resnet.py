"""ResNet-50 for small images, and the bottleneck block."""

import torch
from torch import nn

from fgp.models.layers import initialise
from fgp.models.names import scale

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a residual sum; the 3x3 carries stride and dilation.

    `(N, channels_in, H, W)` to `(N, 4 * channels, ceil(H / stride), ceil(W / stride))`. The shortcut is a 1x1 convolution with BN
    where size or channels change. Source: He et al. 2016 (arXiv 1512.03385), stride placed as in torchvision.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        channels_out = EXPANSION * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu3 = nn.ReLU()
        self.downsample = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.relu2(self.bn2(self.conv2(inner)))
        return self.relu3(self.bn3(self.conv3(inner)) + self.downsample(x))


def stage(channels_in: int, channels: int, dilations: tuple[int, ...], stride: int = 1) -> nn.Sequential:
    """Return one block a dilation; the first one has the stride and takes `channels_in`, the output has `4 * channels`."""
    first = Bottleneck(channels_in, channels, stride, dilations[0])
    return nn.Sequential(first, *(Bottleneck(EXPANSION * channels, channels, 1, dilation) for dilation in dilations[1:]))


class ResNet50(nn.Module):
    """ResNet-50, CIFAR style: 3x3 stem of stride 1, no max-pool, stages of 3, 4, 6 and 3 bottlenecks.

    Images `(N, 3, H, W)` to logits `(N, num_classes)`. Source: He et al. 2016 (arXiv 1512.03385), stem as usual for CIFAR in the
    pruning literature.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        stem, *inner = (scale(channels, width) for channels in (64, 64, 128, 256, 512))
        outer = [EXPANSION * channels for channels in inner]
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = stage(stem, inner[0], (1,) * 3)
        self.layer2 = stage(outer[0], inner[1], (1,) * 4, stride=2)
        self.layer3 = stage(outer[1], inner[2], (1,) * 6, stride=2)
        self.layer4 = stage(outer[2], inner[3], (1,) * 3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outer[3], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def build(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `ResNet50`."""
    return initialise(ResNet50(num_classes, width))
