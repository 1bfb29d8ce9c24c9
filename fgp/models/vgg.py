"""VGG-16 with batch normalisation for small images."""

import torch
from torch import nn

from fgp.models.layers import conv_bn_relu, initialise, refuse_small
from fgp.models.names import scale

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16-BN, CIFAR style: 13 convolutions with bias, five max-pools, global average, one linear layer.

    Images `(N, 3, H, W)` of at least 32x32 pixels to logits `(N, num_classes)`. Source: Simonyan and Zisserman 2015
    (arXiv 1409.1556), configuration D, with a single linear layer as usual for CIFAR in the pruning literature.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        layers, channels = [], 3
        for stage in STAGES:
            for wanted in stage:
                layers += conv_bn_relu(channels, channels := scale(wanted, width), 3, bias=True)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits; raise FgpError for images below 32x32."""
        refuse_small(images, 32, "vgg16")
        return self.classifier(self.pool(self.features(images)).flatten(1))


def build(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `VGG16`."""
    return initialise(VGG16(num_classes, width))
