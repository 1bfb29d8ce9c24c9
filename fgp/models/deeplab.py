"""DeepLabV3 with a ResNet-50 backbone at output stride 8, as the pruning papers on Cityscapes use it."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from fgp.models.layers import batch_of_one_refused, conv_bn_relu, initialise
from fgp.models.names import scale
from fgp.models.resnet import EXPANSION, stage

RATES = (12, 24, 36)


class DeepLabV3(nn.Module):
    """DeepLabV3-ResNet50: stem of three 3x3 convolutions, multigrid 1-2-4, ASPP of 5 x 256 to 512 channels, auxiliary head.

    Images `(N, 3, H, W)` to logits `(N, num_classes, H, W)`; in training mode (two images at least) `(logits, aux_logits)`, the
    auxiliary ones from the third stage. Source: Chen et al. 2017 (arXiv 1706.05587); stem, head and auxiliary head sized as in
    the public code of DCFP (wzx99/DCFP), which gives the parameters and MACs that the FGP paper prints.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scale(channels, width) for channels in (64, 128, 256, 512))
        self.stem = nn.Sequential(*conv_bn_relu(3, c64, 3, stride=2), *conv_bn_relu(c64, c64, 3), *conv_bn_relu(c64, c128, 3))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(c128, c64, (1,) * 3)
        self.layer2 = stage(EXPANSION * c64, c128, (1,) * 4, stride=2)
        self.layer3 = stage(EXPANSION * c128, c256, (2,) * 6)
        self.layer4 = stage(EXPANSION * c256, c512, (4, 8, 16))
        self.aspp = ASPP(EXPANSION * c512, c256, c512)
        head = [*conv_bn_relu(c512, c256, 3), *conv_bn_relu(c256, c256, 3)]
        self.head = nn.Sequential(*head, nn.Conv2d(c256, num_classes, 1))
        auxiliary = [*conv_bn_relu(EXPANSION * c256, c512, 3), nn.Dropout2d(0.1)]
        self.auxiliary = nn.Sequential(*auxiliary, nn.Conv2d(c512, num_classes, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits, with the auxiliary ones in training mode; raise FgpError for a training batch of one image."""
        third = self.layer3(self.layer2(self.layer1(self.maxpool(self.stem(images)))))
        with batch_of_one_refused("deeplabv3"):
            pyramid = self.aspp(self.layer4(third))
        logits = _resize(self.head(pyramid), images)
        if self.training:
            return logits, _resize(self.auxiliary(third), images)
        return logits


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three dilated 3x3 and a global-average branch, concatenated and fused by a 1x1.

    `(N, channels_in, H, W)` to `(N, channels_out, H, W)`; each branch has `channels`.
    """

    def __init__(self, channels_in: int, channels: int, channels_out: int) -> None:
        super().__init__()
        point = nn.Sequential(*conv_bn_relu(channels_in, channels, 1))
        dilated = [nn.Sequential(*conv_bn_relu(channels_in, channels, 3, dilation=rate)) for rate in RATES]
        self.branches = nn.ModuleList([point, *dilated])
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(channels_in, channels, 1))
        self.fuse = nn.Sequential(*conv_bn_relu((len(RATES) + 2) * channels, channels_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fused pyramid."""
        pyramid = [branch(x) for branch in self.branches]
        return self.fuse(torch.cat([*pyramid, _resize(self.image(x), x)], dim=1))


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def build(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `DeepLabV3`."""
    return initialise(DeepLabV3(num_classes, width))
