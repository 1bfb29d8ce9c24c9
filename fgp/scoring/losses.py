"""Scalars that methods differentiate, image by image, and their gradients."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fgp.errors import FgpError
from fgp.scoring.logits import check_labels, pick_logits


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image, (N,), differentiable in the logits.

    Args:
        logits: (N, D), or (N, D, H, W): then an image's loss is the mean over its pixels that are not void. An image of void only
            has loss 0 and gradient 0.
        labels: int64 (N,), or (N, H, W) with 255 = void.

    Raises:
        FgpError: the shapes do not fit, or a label names no output.
    """
    logits = pick_logits(logits, None)
    labels = check_labels(labels, logits)
    losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    return losses.sum((1, 2)) / (labels >= 0).sum((1, 2)).clamp(min=1)


def sample_entropies(logits: Tensor) -> Tensor:
    """Return the entropy in nats of each image's softmax, (N,), differentiable in the logits.

    Args:
        logits: (N, D), or (N, D, H, W): then the mean over all pixels.

    Raises:
        FgpError: another shape.
    """
    log_p = pick_logits(logits, None).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean((1, 2))


def gradients(scalar: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return d scalar / d input for each input; zeros where it does not depend on one.

    Raises:
        FgpError: the scalar is NaN or infinite, or depends on no input.
    """
    if not scalar.isfinite():
        raise FgpError("the loss is NaN or infinite; check the weights and the normalisation of the images")
    if not scalar.requires_grad:
        raise FgpError(
            "the loss does not depend on any channel by differentiable steps; see whether the network detaches its feature maps"
        )
    return torch.autograd.grad(scalar, inputs, materialize_grads=True)
