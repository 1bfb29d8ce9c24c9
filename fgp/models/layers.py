"""Pieces that several networks share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fgp.errors import FgpError


def conv_bn_relu(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
) -> list:
    """Return [Conv2d, BatchNorm2d, ReLU]; the padding keeps the size at stride 1, the ReLU is not in place."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=bias)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


def initialise(model: nn.Module) -> nn.Module:
    """Draw convolutions from Kaiming's normal (fan-out, ReLU), linear layers from N(0, 0.01); BN weight 1; every bias 0.

    A network that rectifies its logits names the BN in front of that ReLU `logits_norm`; its bias starts at 2, so that the ReLU
    is open. From 0, the logits of rare classes sink below 0 everywhere in the first epochs and never get a gradient again.
    On the meta device there is nothing to draw.
    """
    if next(model.parameters()).is_meta:
        return model
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if hasattr(model, "logits_norm"):
        nn.init.constant_(model.logits_norm.bias, 2.0)
    return model


def refuse_small(images: torch.Tensor, least: int, network: str) -> None:
    """Raise FgpError when the images of a batch `(N, 3, H, W)` are smaller than `least` pixels on a side."""
    height, width = images.shape[-2:]
    if min(height, width) < least:
        raise FgpError(f"{network}: images of {height}x{width} pixels are too small; use at least {least}x{least}")


@contextmanager
def batch_of_one_refused(network: str) -> Iterator[None]:
    """Turn the error of BN behind a global pooling, which has no variance over one value while training, into FgpError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FgpError(f"{network}: a training batch of one image; use at least two (BN behind the global pooling)") from error
