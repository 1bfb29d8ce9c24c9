"""Batch-normalisation parameters behind each convolution, and their gradients."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgp.errors import FgpError
from fgp.layers import convolutions, norms_after
from fgp.models.layers import batch_of_one_refused
from fgp.scoring.checks import check_model, differentiable, place
from fgp.scoring.logits import pick_logits
from fgp.scoring.losses import gradients

Objective = Callable[[Tensor, Tensor], Tensor]
"""(what the network returns, labels) -> scalar."""


class Norm(NamedTuple):
    """Scale and shift of the batch normalisation behind a convolution, and an objective's gradients; (C_out,) each."""

    gamma: Tensor
    beta: Tensor
    dgamma: Tensor
    dbeta: Tensor


def norm_gradients(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], objective: Objective, training: bool = False
) -> Iterator[dict[str, Norm]]:
    """Yield, for each batch, {convolution: its `Norm`}; convolutions whose channels are the network's outputs are left out.

    Costs a forward pass and a backward pass with respect to the activations. A copy of the network runs: the network and its
    running statistics stay as they are.

    Args:
        model: a network in eval mode.
        batches: of images and labels; read as far as the iterator is.
        objective: what is differentiated.
        training: normalise by the statistics of the batch. Everything but the normalisation stays in eval mode (no dropout, no
            auxiliary head), so the result is not random.

    Raises:
        FgpError: `batches` is empty, a convolution inside the network is followed by no normalisation with a scale, the objective
            is not finite, or a layer has no batch statistics (one image, one position).
    """
    check_model(model)
    norms = None
    for images, labels in batches:
        images = place(images, model)
        if norms is None:
            names = scaled_norms(model, images)
            with torch.inference_mode(False):
                running = copy.deepcopy(model)
                norms = {conv: running.get_submodule(norm) for conv, norm in names.items() if norm}
                for module in running.modules():
                    if isinstance(module, _BatchNorm):
                        module.train(training)
                for norm in norms.values():
                    if norm.bias is None:
                        norm.bias = nn.Parameter(torch.zeros_like(norm.weight))
        yield _gradients(running, norms, objective, images, labels)
    if norms is None:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")


def _gradients(
    running: nn.Module, norms: Mapping[str, _BatchNorm], objective: Objective, images: Tensor, labels: Tensor
) -> dict[str, Norm]:
    parameters = [parameter for norm in norms.values() for parameter in (norm.weight, norm.bias)]
    with differentiable(running):
        for parameter in parameters:
            parameter.requires_grad_()
        with batch_of_one_refused(type(running).__name__):
            returned = running(images)
        found = gradients(objective(returned, labels), parameters)
    return {
        conv: Norm(norm.weight.detach(), norm.bias.detach(), dgamma, dbeta)
        for (conv, norm), dgamma, dbeta in zip(norms.items(), found[::2], found[1::2], strict=True)
    }


def scaled_norms(model: nn.Module, images: Tensor) -> dict[str, str | None]:
    """Return {convolution: name of the normalisation with a scale behind it}, None where its channels are the logits.

    Args:
        model: a network in eval mode.
        images: (N, C, H, W), one at least; only the first is used.

    Raises:
        FgpError: a convolution inside the network has no such normalisation.
    """
    names = norms_after(model, images)
    outputs = None
    for conv, norm in names.items():
        if norm and model.get_submodule(norm).weight is not None:
            continue
        if outputs is None:
            with torch.no_grad():
                outputs = pick_logits(model(images[:1]), None)
        if outputs.shape[2:].numel() == 1 or model.get_submodule(conv).out_channels != outputs.shape[1]:
            raise FgpError(
                f"{conv}: the method reads the batch normalisation behind it, there is none with a scale; choose another method"
            )
        names[conv] = None
    return names


def with_output_layers(model: nn.Module, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores of every convolution, float32 on the CPU; ones for those not in `scores`, whose channels are outputs."""
    return {
        name: scores[name].float().cpu() if name in scores else torch.ones(layer.out_channels)
        for name, layer in convolutions(model).items()
    }
