"""DeepLabV3-ResNet50 of segmentation-models-pytorch behind the contract of `fgp.models.build`."""

import segmentation_models_pytorch as smp
import torch
from torch import nn

from fgp.errors import FgpError
from fgp.models.layers import batch_of_one_refused


class SmpDeepLabV3(smp.DeepLabV3):
    """`segmentation_models_pytorch.DeepLabV3("resnet50")`, under its own parameter names, without auxiliary head.

    Images `(N, 3, H, W)`, height and width multiples of 8, to logits `(N, num_classes, H, W)`; in training mode two images at
    least.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__("resnet50", encoder_weights=None, classes=num_classes)
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits; raise FgpError for a size that 8 does not divide and for a training batch of one image."""
        height, width = images.shape[-2:]
        if height % 8 or width % 8:
            raise FgpError(f"smp_deeplabv3: images of {height}x{width} pixels; height and width have to be multiples of 8")
        with batch_of_one_refused("smp_deeplabv3"):
            return super().forward(images)


def build(num_classes: int, width: float) -> nn.Module:
    """Build the network; its width is fixed, `Spec` has refused others than 1."""
    assert width == 1
    return SmpDeepLabV3(num_classes)
