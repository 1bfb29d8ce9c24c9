"""torchvision's DeepLabV3-ResNet50 behind the contract of `fgp.models.build`."""

import torch
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation import deeplabv3_resnet50

from fgp.models.layers import batch_of_one_refused


class TorchvisionDeepLabV3(nn.Module):
    """`torchvision.models.segmentation.deeplabv3_resnet50` with its auxiliary head, under torchvision's parameter names.

    Images `(N, 3, H, W)` to logits `(N, num_classes, H, W)`; in training mode (two images at least) `(logits, aux_logits)`.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)
        self.backbone = network.backbone
        self.classifier = network.classifier
        self.aux_classifier = network.aux_classifier
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits, with the auxiliary ones in training mode; raise FgpError for a training batch of one image."""
        features = self.backbone(images)
        with batch_of_one_refused("tv_deeplabv3"):
            outputs = [self.classifier(features["out"])]
        if self.training:
            outputs.append(self.aux_classifier(features["aux"]))
        resized = [interpolate(x, size=images.shape[-2:], mode="bilinear", align_corners=False) for x in outputs]
        return tuple(resized) if self.training else resized[0]


def build(num_classes: int, width: float) -> nn.Module:
    """Build the network; its width is fixed, `Spec` has refused others than 1."""
    assert width == 1
    return TorchvisionDeepLabV3(num_classes)
