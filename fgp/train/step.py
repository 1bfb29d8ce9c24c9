"""One step of SGD, and the same step replayed as a CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgp.train.augment import Augmentation, Draws
from fgp.train.distributed import Group
from fgp.train.hooks import Hook
from fgp.train.loss import Loss
from fgp.train.optimiser import SGD

_WARM_UP_STEPS = 3


class Tally:
    """Sums over the images of an epoch, kept on the device: nothing waits for it until it is read."""

    def __init__(self, device: torch.device, void: int, group: Group) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._right, self._counted = torch.zeros((2,), dtype=torch.int64, device=device)
        self._void, self._group = void, group

    def clear(self) -> None:
        """Start an epoch."""
        for total in (self._loss, self._right, self._counted):
            total.zero_()

    def add(self, loss: Tensor, output: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> None:
        """Count this process's share of a batch: its loss, the network's output and its labels (N,) or (N, H, W)."""
        logits = output if isinstance(output, Tensor) else output[0]
        self._loss += loss.detach() * (len(labels) / self._group.weight(len(labels)))
        self._right += (logits.detach().argmax(1) == labels).sum()
        self._counted += labels.numel() if labels.ndim == 1 else (labels != self._void).sum()

    def read(self, images: int) -> tuple[float, float]:
        """Return the mean loss of so many images and the share of right images, or pixels, in percent, of all processes."""
        loss, right, counted = map(self._group.total, (self._loss, self._right, self._counted))
        return float(loss) / images, 100 * int(right) / max(1, int(counted))


@dataclass(frozen=True)
class Step:
    """One step of SGD.

    Attributes:
        model: the network, in training mode.
        forward: calls the network, compiled or not.
        augmentation: of the raw images.
        criterion: the loss.
        hook: what a method adds.
        optimiser: its rate is a number, or a tensor on the device that is written into.
        tally: what is counted.
        half: compute in bf16 by autocast.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
    augmentation: Augmentation
    criterion: Loss
    hook: Hook
    optimiser: SGD
    tally: Tally
    half: bool

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws, rate: float) -> None:
        """Train on a batch of raw images (uint8) and labels at a learning rate."""
        self.set_rate(rate)
        self.compute(images, labels, draws)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        if isinstance(self.optimiser.rate, Tensor):
            self.optimiser.rate.fill_(rate)
        else:
            self.optimiser.rate = rate

    def compute(self, images: Tensor, labels: Tensor, draws: Draws) -> None:
        """Do everything of a step that runs on the device, without waiting for it."""
        x, y = self.augmentation.apply(images, labels, draws)
        self.optimiser.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
            output = self.forward(x.contiguous(memory_format=torch.channels_last))
            loss = self.criterion(output, y)
        penalty = self.hook.penalty(self.model)
        if penalty is not None:
            loss = loss + penalty
        loss.backward()
        self.hook.after_backward(x, y)
        self.optimiser.step()
        self.hook.after_step(x, y)
        self.tally.add(loss, output, y)


class Replayed:
    """A `Step` that is recorded once and then launched as a whole; for hooks that add nothing to the step.

    The first steps run as they are: they fill the momentum and warm the libraries up. A batch of another size than the first one,
    the last of an epoch, runs as it is too. Recording does not train: the recorded step is replayed at once.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        """Take a step and the GPU that it runs on."""
        self._step, self._device = step, device
        self._buffers: tuple[Tensor, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._warm = 0

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws, rate: float) -> None:
        """Train on a batch, as `Step` does."""
        self._step.set_rate(rate)
        batch = (images, labels, draws.size, draws.corner, draws.flip)
        if not self._buffers:
            self._buffers = tuple(part.clone() for part in batch)
        if len(images) != len(self._buffers[0]):
            self._step.compute(images, labels, draws)
            return
        for buffer, part in zip(self._buffers, batch, strict=True):
            buffer.copy_(part)
        if self._warm < _WARM_UP_STEPS:
            self._warm += 1
            warm_up(self._compute, self._device)
            return
        if self._replay is None:
            self._replay = record(self._compute, self._device)
        self._replay()

    def _compute(self) -> None:
        images, labels, size, corner, flip = self._buffers
        self._step.compute(images, labels, Draws(size, corner, flip))


def warm_up(work: Callable[[], None], device: torch.device) -> None:
    """Run `work` on a stream of its own, as PyTorch asks for before work is recorded."""
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        work()
    current.wait_stream(side)


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record `work` as a CUDA graph, without running it, and return a function that launches it."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    return graph.replay
