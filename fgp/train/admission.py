"""The order in which discrimination-aware channel pruning admits the channels of a layer; see `baselines/dcp.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgp.partial import forward_to
from fgp.scoring.losses import gradients


@dataclass(frozen=True)
class Settings:
    """How `Discrimination` trains and selects.

    Attributes:
        losses: inner feature maps that get a classifier, fewer where the network has fewer maps; None: 3 if the network has
            residual sums, else 2.
        images: training images that the selection reads, spread evenly over the training set; all if it has fewer.
        turns: in which a layer's channels are admitted, so many at a time that these suffice; None: one channel a turn.
        iterations: SGD steps on the admitted weights after each admission.
        lr: learning rate of these steps.
        balance: factor of the cross-entropy against the squared error in the selection.
        adapt: stop a layer when an admission changes its loss by at most this share of the loss without any channel; None: admit
            all.
        residual: order the channels that reach residual sums too, for `tied` pruning.
    """

    losses: int | None = None
    images: int = 256
    turns: int | None = None
    iterations: int = 1
    lr: float = 0.01
    balance: float = 1.0
    adapt: float | None = None
    residual: bool = False


class Objective:
    """L = L_M + balance * L_S of some layers of a frozen network; calling it evaluates L, differentiable in their weights.

    L_M: mean squared difference between a layer's output and that of the dense network, summed over the layers. L_S: mean
    cross-entropy of the head at the loss position, or of the network's own logits.
    """

    def __init__(
        self,
        network: nn.Module,
        dense: nn.Module,
        layers: Sequence[str],
        position: str | None,
        head: nn.Module,
        images: Tensor,
        labels: Tensor,
        balance: float,
    ) -> None:
        """Run the dense network once; `position` is the module at which the forward pass stops, None at the logits."""
        self._network, self._layers, self._position, self._head = network, layers, position, head
        self._images, self._labels, self._balance = images, labels, balance
        with torch.no_grad():
            _, self._wanted = forward_to(dense, images, position, layers)

    def __call__(self) -> Tensor:
        """Return L, a scalar."""
        maps, outputs = forward_to(self._network, self._images, self._position, self._layers)
        reconstruction = sum(F.mse_loss(outputs[name], self._wanted[name]) for name in self._layers)
        return reconstruction + self._balance * F.cross_entropy(self._head(maps), self._labels)


class Reader:
    """A layer that reads the channels of a group, and its weights by input channel.

    Attributes:
        parameter: the layer's weight, with gradients on.
        index: (C, m), the inputs that hold each channel.
        weights: (inputs, ...), a view of the weight.
        start: a copy of it.
    """

    def __init__(self, layer: nn.Module, index: Tensor) -> None:
        """Take a Conv2d, ConvTranspose2d (not grouped) or Linear layer."""
        self._first = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
        self.parameter = layer.weight.requires_grad_()
        self.index = index.to(layer.weight.device)
        self.weights = self.by_input(layer.weight.detach())
        self.start = self.weights.clone()

    def by_input(self, values: Tensor) -> Tensor:
        """Return a view of `values`, shaped like the weight, whose first axis is the input."""
        return values.transpose(0, self._first)


def admission_order(readers: Sequence[Reader], objective: Callable[[], Tensor], unit: int, settings: Settings) -> Tensor:
    """Return the channels of a group, int64, in the order of admission; all of them unless `settings.adapt` stops earlier.

    The weights start at zero. Each turn admits the channels k with the largest Frobenius norm of dL/dW_k over all readers, gives
    them the weights of the trained network, and moves the weights of all admitted channels by `iterations` steps of SGD.
    Afterwards the weights are as before, and frozen.

    Args:
        readers: the layers that read the group.
        objective: L, evaluated on the weights as they are.
        unit: neighbouring channels admitted as one; they count as one channel.
        settings: `turns`, `iterations`, `lr` and `adapt` are read.
    """
    parameters = [reader.parameter for reader in readers]
    units = len(readers[0].index) // unit
    positions = torch.arange(units * unit, device=parameters[0].device).view(units, unit)
    admitted = torch.zeros(units, dtype=torch.bool, device=parameters[0].device)

    def evaluate() -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            value = objective()
            found = gradients(value, parameters)
        return value.detach(), [reader.by_input(gradient) for reader, gradient in zip(readers, found, strict=True)]

    for reader in readers:
        reader.weights[reader.index] = 0
    order: list[Tensor] = []
    value, slopes = first, _ = evaluate()
    step = -(-units // (settings.turns or units))
    for done in range(0, units, step):
        squares = (
            sum(s[r.index].square().flatten(1).sum(1) for r, s in zip(readers, slopes, strict=True)).view(units, unit).sum(1)
        )
        ranking = squares.masked_fill(admitted, -1).argsort(descending=True, stable=True)
        best = ranking[: min(step, units - done)]
        admitted[best] = True
        order.append(positions[best].flatten())
        if done + step >= units:
            break
        for reader in readers:
            new = reader.index[order[-1]]
            reader.weights[new] = reader.start[new]
        for _ in range(settings.iterations):
            _, slopes = evaluate()
            for reader, slope in zip(readers, slopes, strict=True):
                kept = reader.index[torch.cat(order)]
                reader.weights[kept] -= settings.lr * slope[kept]
        previous, (value, slopes) = value, evaluate()
        if settings.adapt is not None and (previous - value).abs() <= settings.adapt * first:
            break
    for reader in readers:
        reader.weights.copy_(reader.start)
        reader.parameter.requires_grad_(False)
    return torch.cat(order)
