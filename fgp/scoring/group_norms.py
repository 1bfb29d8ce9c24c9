"""Weights that go with the channels of coupled layers: their norms, and shrinking them while a network trains."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgp.layers import convolutions
from fgp.surgery import Structure
from fgp.train.hooks import Hook, Run

_COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, _BatchNorm)


class GroupWeights:
    """For each group of coupled layers the slices of weights that one of its channels owns.

    These are the filters that make the channel, the scales of the normalisations behind them, and the kernels of every layer
    that reads it; biases and shifts are left out. A weight belongs to two groups, by its output and by its input channel.
    """

    def __init__(self, structure: Structure, model: nn.Module) -> None:
        """Find the slices of every group that may lose channels; `model` is the network of `structure`, on its device."""
        self._units = {group.leader: group.unit for group in structure.prunable}
        self._slices: dict[nn.Parameter, list[tuple[str, int, Tensor]]] = {}
        modules = dict(model.named_modules())
        for leader in self._units:
            for reads, touched in ((False, structure.producers(leader)), (True, structure.consumers(leader))):
                for name, index in touched.items():
                    weight = modules[name].weight
                    if isinstance(modules[name], _COUNTED) and weight is not None:
                        dim = int(reads != getattr(modules[name], "transposed", False))
                        self._slices.setdefault(weight, []).append((leader, dim, index.to(weight.device)))

    def squared_norms(self) -> dict[str, Tensor]:
        """Return {group leader: (C,)}, the sum of the squared weights of each channel (of its unit, see `fgp.groups.Group`)."""
        totals: dict[str, Tensor] = {}
        for weight, slices in self._slices.items():
            squares = weight.detach().square()
            squares = squares.sum(tuple(range(2, squares.ndim))) if squares.ndim > 2 else squares
            for leader, dim, index in slices:
                line = squares.sum(1 - dim) if squares.ndim == 2 else squares
                totals[leader] = totals.get(leader, 0) + line[index].sum(1)
        return {leader: _of_units(total, self._units[leader]) for leader, total in totals.items()}

    @torch.no_grad()
    def add_to_gradients(self, factors: Mapping[str, Tensor]) -> None:
        """Add factor * weight to the gradient of every slice; a weight of two groups gets both.

        Args:
            factors: {group leader: (C,)}.
        """
        for weight, slices in self._slices.items():
            if weight.grad is None:
                continue
            lines = [weight.new_zeros(size) for size in weight.shape[:2]]
            for leader, dim, index in slices:
                lines[dim][index] += factors[leader][:, None]
            factor = lines[0] if weight.ndim == 1 else lines[0][:, None] + lines[1]
            weight.grad.addcmul_(weight, factor.view(*factor.shape, *[1] * (weight.ndim - factor.ndim)))


class GroupShrinkage(Hook):
    """DepGraph's sparse learning: every step shrinks the weights of weak channels more than those of strong ones."""

    def __init__(self, strength: float, alpha: float) -> None:
        """Add strength * 2^(alpha (Imax - I[k]) / (Imax - Imin)) * w to the gradient of the weights w of channel k."""
        self._strength, self._alpha = strength, alpha

    def begin(self, run: Run) -> None:
        """Find the groups, those that reach residual sums too."""
        images, _ = next(iter(run.batches))
        self._weights = GroupWeights(Structure(run.model, images[:1], tied=True), run.model)

    def after_backward(self, images: Tensor, labels: Tensor) -> None:
        """Add the shrinkage to the gradients."""
        norms = self._weights.squared_norms()
        self._weights.add_to_gradients({k: self._strength * shrinkage(values, self._alpha) for k, values in norms.items()})


def shrinkage(norms: Tensor, alpha: float) -> Tensor:
    """Return 2^(alpha (max - norm) / (max - min)): 1 for the strongest channel, 2^alpha for the weakest; 1 where all are equal.

    Args:
        norms: (C,), the squared norms of the channels of a group.
        alpha: at least 0.
    """
    span = (norms.max() - norms.min()).clamp(min=torch.finfo(norms.dtype).tiny)
    return 2 ** (alpha * (norms.max() - norms) / span)


def layer_scores(structure: Structure, model: nn.Module, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores of every convolution, {layer: float32 (C_out,)} on the CPU, from those of whole groups.

    Each member of a group gets an equal part, so that `Structure.gather`, which sums over members, finds the group's own score.
    Convolutions that are never pruned (the network's outputs) score 1.

    Args:
        structure: of the network.
        model: the network.
        totals: {group leader: (C,)}, one entry for each group that may lose channels.
    """
    scores = {name: torch.ones(layer.out_channels) for name, layer in convolutions(model).items()}
    for group in structure.prunable:
        for member in group.members:
            scores[member] = (totals[group.leader] / len(group.members)).float().cpu()
    return scores


def _of_units(values: Tensor, unit: int) -> Tensor:
    return values.view(-1, unit).sum(1).repeat_interleave(unit)
