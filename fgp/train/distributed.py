"""One network trained by several processes, a GPU each, as `torchrun` starts them.

A batch of the recipe is cut into one share a process. Loss, batch normalisation and dropout are those of the whole batch, so the
result is that of one process, up to rounding.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgp import torchrun
from fgp.errors import FgpError

if TYPE_CHECKING:
    from fgp.train.engine import Engine
    from fgp.train.hooks import Hook


class Group:
    """The processes that train a network together; without torchrun this process alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        leader: whether this is the process that writes files and reports.
        part: the batch of the present step, as a slice of the epoch's order of images; set by the training loop.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.leader = rank, size, rank == 0
        self.part = slice(0, 0)

    def share(self, part: slice) -> slice:
        """Return the share of this process in a part of the images."""
        images = part.stop - part.start
        cuts = (part.start + images * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(*cuts)

    def weight(self, images: int) -> float:
        """Return the weight of this process's mean over its `images` of the present batch, 1 on average over the processes."""
        return 1 if self.size == 1 else images * self.size / (self.part.stop - self.part.start)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes, without a gradient; every process has to call."""
        if self.size == 1:
            return values
        values = values.detach().clone()
        with self._together():
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes, without a gradient; every process has to call."""
        return values if self.size == 1 else self.total(values) / self.size

    def from_leader(self, value: Any) -> Any:
        """Return the leader's value in every process; every process has to call."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def check(self, parts: Sequence[slice], hook: "Hook | None", engine: "Engine") -> None:
        """Check that a training can be shared.

        Args:
            parts: its batches.
            hook: what a method adds to it.
            engine: how the arithmetic is done.

        Raises:
            FgpError: the method acts on single steps, the network is to be compiled, or a batch has fewer images than there are
                processes.
        """
        if self.size == 1:
            return
        if hook is not None and not hook.replayable:
            raise FgpError("torchrun: this method acts on the steps of the training and needs one process; leave torchrun out")
        if engine.compile:
            raise FgpError("--compile: not under torchrun; leave one of the two out")
        smallest = min((part.stop - part.start for part in parts), default=self.size)
        if smallest < self.size:
            raise FgpError(
                f"torchrun: {self.size} processes, but a batch of {smallest} images: each process needs one; "
                f"start fewer processes or choose another batch_size"
            )

    @contextmanager
    def parallel(self, model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
        """Yield what calls `model` in training; its gradients are averaged over the processes.

        In this context the normalisation and dropout layers of `model` are replaced. Parameters, buffers and the names in the
        state_dict stay.

        Args:
            model: the network, on its device.
            device: CPU or this process's GPU.

        Raises:
            FgpError: another process ended.
        """
        if self.size == 1:
            yield model
            return
        replaced = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.BatchNorm2d):
                convert = SyncNorm if device.type == "cpu" else nn.SyncBatchNorm.convert_sync_batchnorm
                replaced[name] = module, convert(module)
            elif isinstance(module, (nn.Dropout, nn.Dropout2d)):
                replaced[name] = module, SharedDropout(module, self)
        for name, (_, module) in replaced.items():
            model.set_submodule(name, module)
        try:
            with self._together():
                yield DistributedDataParallel(model, [device] if device.type == "cuda" else None)
        finally:
            for name, (module, _) in replaced.items():
                model.set_submodule(name, module)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn the error that the end of another process causes in this one into an FgpError."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            says = f"process {self.rank} of {self.size}: no connection to another one; if that has failed, its message says why"
            raise FgpError(says, str(error)) from error

    def leave(self) -> None:
        """Wait for every process, at the end of what they do together: the leader's files are there then.

        A process that fails does not come here: it ends at once, and torchrun ends the others.
        """
        if self.size > 1:
            self.total(torch.zeros(()))
            atexit.register(dist.destroy_process_group)


_ALONE = Group()
_group = _ALONE


def join(device: str) -> Group:
    """Meet the other processes that torchrun started and make this one's GPU the current one.

    Args:
        device: "auto", "cuda" or "cpu", the same in every process.

    Raises:
        FgpError: there are fewer GPUs than processes, or `device` names one GPU.
    """
    global _group
    if not torchrun.launched():
        return _ALONE
    atexit.unregister(dist.destroy_process_group)
    if _group is _ALONE:
        if device != "cpu" and torch.cuda.is_available():
            _take_gpu(device)
        dist.init_process_group()
        _group = Group(dist.get_rank(), dist.get_world_size())
    return _group


def group() -> Group:
    """Return the group of this process.

    Raises:
        FgpError: torchrun started several processes that did not `join`.
    """
    if _group is _ALONE and torchrun.launched():
        raise FgpError("torchrun: only `fgp train` and `fgp finetune` run in several processes; leave torchrun out")
    return _group


def _take_gpu(device: str) -> None:
    if ":" in device:
        raise FgpError(f"--device {device}: under torchrun every process has its own GPU; use cuda, and CUDA_VISIBLE_DEVICES")
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus:
        raise FgpError(f"torchrun: more processes than GPUs on this machine; use --nproc-per-node {gpus}, or --device cpu")
    torch.cuda.set_device(number)


class SyncNorm(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, in training mode; `nn.SyncBatchNorm` is for GPUs only."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Share the parameters and buffers of `norm`."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) by the mean and variance over the N, H, W of all processes."""
        wide = x.to(self.weight.dtype)
        count = _Sum.apply(wide.new_tensor(x.numel() / x.shape[1]))
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes; the loss is the sum of what all of them compute from it."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return _group.total(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _group.total(gradient)


class SharedDropout(nn.Module):
    """Dropout of the whole batch, drawn from the same generator in every process, of which each applies its share."""

    def __init__(self, dropout: nn.Dropout | nn.Dropout2d, group: Group) -> None:
        """Take the layer and the processes."""
        super().__init__()
        self._dropout, self._group = dropout, group

    def forward(self, x: Tensor) -> Tensor:
        """Drop from (N, ...), this process's share of the present batch."""
        part, share = self._group.part, self._group.share(self._group.part)
        rest = (x.shape[1], *[1] * (x.ndim - 2)) if isinstance(self._dropout, nn.Dropout2d) else x.shape[1:]
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        ones = x.new_ones((part.stop - part.start, *rest))
        factor = self._dropout(ones.contiguous(memory_format=torch.channels_last) if last else ones)
        return x * factor[share.start - part.start : share.stop - part.start]
