"""What every method that scores a network asks of it and of the images, and the state in which it reads gradients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgp.errors import FgpError
from fgp.layers import convolutions


def check_model(model: nn.Module) -> torch.dtype:
    """Return the dtype of the network's weights.

    Raises:
        FgpError: the network is in training mode, normalises by batch statistics, or is neither float32 nor float64.
    """
    for name, module in model.named_modules():
        where = name or type(model).__name__
        if module.training:
            raise FgpError(f"{where}: in training mode; call model.eval() before scoring")
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise FgpError(
                f"{where}: normalises by the statistics of the batch, which mixes the images; give it track_running_stats=True"
            )
    for name, layer in convolutions(model).items():
        if layer.weight.dtype not in (torch.float32, torch.float64):
            raise FgpError(f"{name}: weights are {layer.weight.dtype}; score in float32, model.float()")
    return layer.weight.dtype


def place(images: Tensor, model: nn.Module) -> Tensor:
    """Return `images` on the device and in the dtype of the network's weights.

    Raises:
        FgpError: not a float tensor of shape (N, 3, H, W) with N at least 1.
    """
    if images.ndim != 4 or not len(images):
        raise FgpError(f"batches: images have shape {tuple(images.shape)}; give (N, C, H, W) with at least one image")
    if not images.is_floating_point():
        raise FgpError(f"batches: images are {images.dtype}; give normalised floats, for example from fgp.data.batches")
    weight = next(iter(convolutions(model).values())).weight
    return images.detach().to(weight.device, weight.dtype)


def example_of(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the first image of `batches`, (1, C, H, W), as `place` does: to trace the network with.

    Raises:
        FgpError: there is none, or see `place`.
    """
    first = next(iter(batches), None)
    if first is None:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    return place(first[0], model)[:1]


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Let gradients flow through activations only: weights frozen, autocast off; as before on leaving."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    device = next(iter(convolutions(model).values())).weight.device.type
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
