"""The training loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fgp.errors import FgpError
from fgp.train import distributed
from fgp.train.recipe import Recipe

Loss = Callable[[Tensor | tuple[Tensor, Tensor], Tensor], Tensor]


def build(recipe: Recipe, labels: Tensor, outputs: int, task: str, void: int, device: torch.device | str) -> Loss:
    """Return the loss of `recipe`: cross-entropy of the logits, plus `aux_weight` times that of an auxiliary head.

    In processes that share a batch (`fgp.train.distributed`) it is that of the process's share, such that the mean over the
    processes is the loss of the batch.

    Args:
        recipe: says the class weights and the weight of the auxiliary head.
        labels: the training labels, (N,) or (N, H, W); class weights are computed from them.
        outputs: number of network outputs.
        task: in "segmentation" pixels labelled `void` are left out; a batch of void pixels only has loss 0.
        void: the label to leave out.
        device: where the loss is computed.
    """
    weight, group = None, distributed.group()
    if recipe.class_weights == "median_frequency":
        weight = median_frequency(labels, outputs, void).to(device)

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        if task == "classification":
            return F.cross_entropy(logits, target) * group.weight(len(target))
        total = F.cross_entropy(logits, target, weight, ignore_index=void, reduction="sum")
        shown = target != void
        mass = (shown if weight is None else weight[target * shown] * shown).sum(dtype=torch.float32)
        return total / group.mean(mass).clamp(min=torch.finfo(torch.float32).tiny)

    def loss(output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(output, Tensor):
            return cross_entropy(output, target)
        logits, auxiliary = output
        return cross_entropy(logits, target) + recipe.aux_weight * cross_entropy(auxiliary, target)

    return loss


def median_frequency(labels: Tensor, outputs: int, void: int) -> Tensor:
    """Weights by median frequency balancing (Eigen and Fergus 2015, as used for CamVid by SegNet, Badrinarayanan 2017).

    freq(c) = pixels of class c / pixels of the images in which c occurs (void pixels not counted);
    weight(c) = median of freq / freq(c). A class that never occurs has weight 0.

    Args:
        labels: (N, H, W) uint8 labels of the training images.
        outputs: number of network outputs, the length of the result.
        void: the label left out.

    Returns:
        Float32 (outputs,).

    Raises:
        FgpError: every pixel is void.
    """
    pixels = torch.zeros(outputs, dtype=torch.float64)
    seen = torch.zeros(outputs, dtype=torch.float64)
    for label in labels.cpu():
        count = torch.bincount(label[label != void].long(), minlength=outputs).double()
        pixels += count
        seen += (count > 0) * count.sum()
    present = pixels > 0
    if not present.any():
        raise FgpError("recipe: class_weights median_frequency: every training pixel is void; check the data file")
    frequency = pixels[present] / seen[present]
    weight = torch.zeros(outputs, dtype=torch.float64)
    weight[present] = frequency.quantile(0.5) / frequency
    return weight.float()
