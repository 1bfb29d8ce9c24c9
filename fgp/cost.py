"""Multiply-adds and parameters of a network, counted without computing anything."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fgp.errors import FgpError
from fgp.shapes import WithoutNorms


@dataclass(frozen=True)
class Cost:
    """Attributes: `macs`, multiply-adds of one forward in eval mode; `params`, all parameters, auxiliary heads included."""

    macs: int
    params: int


def count(model: nn.Module, example_input: torch.Tensor) -> Cost:
    """Count the cost of `model(example_input)`; one multiply-add is one MAC.

    Counted is what torch.utils.flop_counter knows, convolutions and matrix products; BN, activations and pooling are free. An
    auxiliary head that eval mode skips costs parameters but no MACs. The forward runs on the meta device, without arithmetic;
    where an operation has no meta kernel, on zeros on the model's own device. The model is left as it is.

    Args:
        model: any network that takes one tensor.
        example_input: `(N, 3, H, W)` on any device, meta too; only its shape and type matter. MACs are those of the whole batch.

    Raises:
        FgpError: the network cannot take an input of that shape.
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        macs = _macs(_meta_copy(model), torch.empty_like(example_input, device="meta"))
    except (RuntimeError, ValueError):
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        try:
            macs = _macs(copy.deepcopy(model), torch.zeros_like(example_input, device=device))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(str(size) for size in example_input.shape)
            raise FgpError(f"{type(model).__name__} fails on an input of {shape}: {str(error).splitlines()[0]}") from error
    return Cost(macs, params)


def example(input_size: tuple[int, int, int], device: str | torch.device = "meta") -> torch.Tensor:
    """Return zeros of shape `(1, *input_size)`, by default on the meta device, where they take no memory."""
    return torch.zeros(1, *input_size, device=device)


def _macs(model: nn.Module, images: torch.Tensor) -> int:
    model.eval()
    with torch.no_grad(), WithoutNorms(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def _meta_copy(model: nn.Module) -> nn.Module:
    """Copy the model but not its tensors: deepcopy finds meta tensors in their place."""
    memo = {id(x): nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad) for x in model.parameters()}
    memo |= {id(x): torch.empty_like(x, device="meta") for x in model.buffers()}
    return copy.deepcopy(model, memo)
