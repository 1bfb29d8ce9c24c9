"""Geometric-semantic re-balanced loss of DCFP (Wang et al. 2023): rare classes and the pixels around boundaries count more."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fgp.data.header import VOID
from fgp.train.hooks import Hook, Run
from fgp.train.loss import Loss

BETA = 0.9999
WINDOW = 9
GAMMA = 9
AUXILIARY = 0.4
_EPS = 1e-8


class Rebalanced(Hook):
    """Replaces the loss by the re-balanced one, in which every image has a class that it was drawn for.

    The class is drawn at random among those of the augmented image, with chances in inverse ratio to the training images that
    hold them: what a class-balanced choice of images would have drawn this one for.
    """

    def begin(self, run: Run) -> None:
        """Count the training images that hold each class."""
        self._images_with = sum(_pixels(labels, run.outputs).gt(0).sum(0) for _, labels in run.batches)

    def criterion(self, default: Loss) -> Loss:
        """Return the re-balanced loss; `default` is not used."""

        def loss(output: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
            present = _pixels(labels, len(self._images_with)).gt(0)
            waiting = torch.empty(present.shape, device=labels.device).exponential_() * self._images_with
            drawn = waiting.masked_fill(~present, torch.inf).argmin(1)
            return rebalanced(output, labels, drawn)

        return loss


def rebalanced(output: Tensor | tuple[Tensor, Tensor], labels: Tensor, drawn: Tensor) -> Tensor:
    """Return the mean over images of sum W CE / sum W over pixels, plus 0.4 times that of an auxiliary head under the same W.

    W = maxpool 9x9 of the class weights * (1 + 9 (1 - (p1 - p2))), p1 and p2 the two largest probabilities of the main head;
    0 at void pixels. No gradient flows through W. An image of void pixels only has loss 0.

    Args:
        output: logits (N, C, H, W), or (logits, auxiliary logits).
        labels: (N, H, W) int64, 255 = void.
        drawn: (N,) int64, the class that each image was drawn for.
    """
    heads = (output,) if isinstance(output, Tensor) else output
    with torch.no_grad():
        first, second = heads[0].softmax(1).topk(2, dim=1).values.unbind(1)
        weights = F.max_pool2d(class_weights(labels, drawn, heads[0].shape[1]), WINDOW, stride=1, padding=WINDOW // 2)
        weights = weights * (1 + GAMMA * (1 - (first - second))) * (labels != VOID)

    def mean(logits: Tensor) -> Tensor:
        pixels = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        return ((pixels * weights).sum((1, 2)) / (weights.sum((1, 2)) + _EPS)).mean()

    return mean(heads[0]) + sum(AUXILIARY * mean(auxiliary) for auxiliary in heads[1:])


def class_weights(labels: Tensor, drawn: Tensor, classes: int) -> Tensor:
    """Return each pixel's class weight, (N, H, W) float32: clip((1 - .9999^n_drawn) / (1 - .9999^n_c), 0, 1), void 0.

    n_c is the number of pixels of class c in the same image: classes with fewer pixels than the drawn one weigh 1.
    """
    filled = 1 + _EPS - BETA ** _pixels(labels, classes).double()
    weights = (filled.gather(1, drawn[:, None]) / filled).clamp(0, 1).float()
    weights = F.pad(weights, (0, 1))
    return weights.gather(1, _flat(labels, classes)).view(labels.shape)


def _pixels(labels: Tensor, classes: int) -> Tensor:
    """Return the pixels of every class in each image, (N, classes) int64."""
    flat = _flat(labels, classes)
    return flat.new_zeros(len(labels), classes + 1).scatter_add_(1, flat, torch.ones_like(flat))[:, :classes]


def _flat(labels: Tensor, classes: int) -> Tensor:
    return labels.masked_fill(labels == VOID, classes).flatten(1)
