"""What a method may do in the training loop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgp.train.loss import Loss


@dataclass(frozen=True)
class Run:
    """One training run, as a hook sees it.

    Attributes:
        model: the network, on its device, in training mode.
        batches: the training images without augmentation, in a fixed order: a re-iterable of (images float (N, 3, H, W),
            labels int64).
        steps: SGD steps in all.
        steps_per_epoch: of them, in an epoch.
        outputs: number of network outputs.
        task: "classification" or "segmentation".
        seed: of the run.
        device: where it trains.
    """

    model: nn.Module
    batches: Iterable[tuple[Tensor, Tensor]]
    steps: int
    steps_per_epoch: int
    outputs: int
    task: str
    seed: int
    device: torch.device


class Hook:
    """Takes part in `fgp.train.fit`. Every function here does nothing: a method overrides those it needs.

    Order of the calls: `begin`, `load_state_dict` when an interrupted run goes on; in every step `penalty`, backward,
    `after_backward`, optimiser, `after_step`; after every epoch `after_epoch`; `end`. A step at which `finished` is true is the
    last one.
    """

    finished = False
    replayable = False
    """Whether every step does the same work on the same tensors, without waiting for a result: it may become a CUDA graph."""

    def begin(self, run: Run) -> None:
        """Prepare; forward hooks on the network's modules are set here."""

    def parameters(self) -> list[nn.Parameter]:
        """Return parameters of the method's own that SGD trains too; read after `begin`."""
        return []

    def criterion(self, default: Loss) -> Loss:
        """Return the loss (output of the network, labels) -> scalar that replaces `default`."""
        return default

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a scalar to be added to the loss of this step, or None."""

    def after_backward(self, images: Tensor, labels: Tensor) -> None:
        """Read or change the gradients, before the optimiser's step. The batch is the augmented one of this step."""

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Act on the weights just updated."""

    def after_epoch(self, epoch: int) -> None:
        """Act after epoch `epoch`, counted from 1. Here the run may be interrupted, `state_dict` follows."""

    def end(self) -> None:
        """Finish; the network's modules are left without forward hooks."""

    def state_dict(self) -> dict:
        """Return what an interrupted run has to remember: tensors, numbers, text, and lists and dictionaries of them.

        Weights, optimiser and random state are remembered anyway; `parameters` are not.
        """
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take up what `state_dict` returned; called after `begin`."""


class Penalty(Hook):
    """Adds a function of the network's weights to the loss, the same in every step."""

    replayable = True

    def __init__(self, regulariser: Callable[[nn.Module], Tensor]) -> None:
        """Take `regulariser`: model -> scalar."""
        self._regulariser = regulariser

    def penalty(self, model: nn.Module) -> Tensor:
        """Return the regulariser's value."""
        return self._regulariser(model)
