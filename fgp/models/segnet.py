"""SegNet: VGG-16 encoder, mirrored decoder, max-unpooling."""

import torch
from torch import nn

from fgp.models.layers import conv_bn_relu, initialise, refuse_small
from fgp.models.names import scale
from fgp.models.vgg import STAGES


class SegNet(nn.Module):
    """SegNet: every convolution, the last one too, has a bias and is followed by BN and ReLU, so logits are not negative.

    Images `(N, 3, H, W)` of any size from 32x32 pixels to logits `(N, num_classes, H, W)`. Source: Badrinarayanan et al. 2017
    (arXiv 1511.00561); layers as in the network whose parameters and MACs the FGP paper prints.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        encoders = [[scale(channels, width) for channels in stage] for stage in STAGES]
        inputs = [3, *(stage[-1] for stage in encoders)]
        self.encoder = nn.ModuleList(_stage(channels, stage) for channels, stage in zip(inputs, encoders, strict=False))
        # A decoder stage mirrors its encoder stage and ends with the channels that the encoder stage took in.
        decoders = [[*stage[:0:-1], channels] for channels, stage in zip([num_classes, *inputs[1:]], encoders, strict=False)]
        self.decoder = nn.ModuleList(
            _stage(stage[-1], mirrored) for stage, mirrored in zip(encoders[::-1], decoders[::-1], strict=True)
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(2, return_indices=True) for _ in STAGES)
        self.unpools = nn.ModuleList(nn.MaxUnpool2d(2) for _ in STAGES)

    @property
    def logits_norm(self) -> nn.BatchNorm2d:
        """The BN in front of the last ReLU."""
        return self.decoder[-1][-2]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits; raise FgpError for images below 32x32."""
        refuse_small(images, 32, "segnet")
        x, pooled = images, []
        for convolutions, pool in zip(self.encoder, self.pools, strict=True):
            x = convolutions(x)
            size = x.shape[-2:]
            x, indices = pool(x)
            pooled.append((indices, size))
        for unpool, convolutions in zip(self.unpools, self.decoder, strict=True):
            indices, size = pooled.pop()
            x = convolutions(unpool(x, indices, output_size=size))
        return x


def _stage(channels_in: int, channels: list[int]) -> nn.Sequential:
    layers = []
    for channels_out in channels:
        layers += conv_bn_relu(channels_in, channels_out, 3, bias=True)
        channels_in = channels_out
    return nn.Sequential(*layers)


def build(num_classes: int, width: float) -> nn.Module:
    """Build an initialised `SegNet`."""
    return initialise(SegNet(num_classes, width))
