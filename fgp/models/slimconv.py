"""SlimConv in place of the 3x3 convolutions of VGG-16 and ResNet-50."""

import torch
from torch import Tensor, nn

from fgp.models.layers import batch_of_one_refused, conv_bn_relu, initialise
from fgp.models.names import scale
from fgp.models.resnet import Bottleneck, ResNet50
from fgp.models.vgg import VGG16


class SlimConv(nn.Module):
    """Weighs the channels, folds them to half their number in two ways and convolves each half on its own path; BN included.

    `(N, channels_in, H, W)` to `(N, out_channels, ceil(H / stride), ceil(W / stride))`, with out_channels = channels / 2 +
    channels / 4 (k = 4/3). Fractions are rounded to the nearest integer, halves up, at least 1; of an odd number of channels the
    middle one is folded onto itself. In training mode a batch takes two images at least. Source: Qiu et al. 2021 (arXiv
    2003.07469).
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        """Take the channels of the input and those of the 3x3 convolution that this one replaces."""
        super().__init__()
        self.folded = scale(channels_in, 1 / 2)
        half, quarter = scale(channels, 1 / 2), scale(channels, 1 / 4)
        self.out_channels = half + quarter
        squeezed = conv_bn_relu(channels_in, scale(channels_in, 1 / 32), 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *squeezed, nn.Conv2d(squeezed[0].out_channels, channels_in, 1), nn.Sigmoid()
        )
        self.upper = nn.Sequential(*conv_bn_relu(self.folded, half, 3, stride=stride)[:2])
        self.lower = nn.Sequential(*conv_bn_relu(self.folded, quarter, 1), *conv_bn_relu(quarter, quarter, 3, stride=stride)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Return the two paths side by side, without ReLU; raise FgpError for a training batch of one image."""
        with batch_of_one_refused("SlimConv"):
            weights = self.gate(x)
        return torch.cat([self.upper(self._fold(weights * x)), self.lower(self._fold(weights.flip(1) * x))], dim=1)

    def _fold(self, x: Tensor) -> Tensor:
        return x[:, : self.folded] + x[:, -self.folded :]


def build_vgg16(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `VGG16` in which SlimConv stands for every convolution, and the BN behind it, but the first."""
    model = VGG16(num_classes, width)
    channels = model.features[0].out_channels
    for index, layer in enumerate(model.features):
        if index and isinstance(layer, nn.Conv2d):
            model.features[index] = SlimConv(channels, layer.out_channels)
            model.features[index + 1] = nn.Identity()
            channels = model.features[index].out_channels
    model.classifier = nn.Linear(channels, num_classes)
    return initialise(model)


def build_resnet50(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `ResNet50` in which SlimConv stands for the 3x3 convolution, and its BN, of every bottleneck."""
    model = ResNet50(num_classes, width)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            slim = SlimConv(block.conv2.in_channels, block.conv2.out_channels, block.conv2.stride[0])
            block.conv2, block.bn2 = slim, nn.Identity()
            block.conv3 = nn.Conv2d(slim.out_channels, block.conv3.out_channels, 1, bias=False)
    return initialise(model)
