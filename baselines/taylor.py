"""Taylor: squared first-order change of the loss when a channel is switched off.

Paper: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), Taylor-FO, gate after BN.
Equation: every channel is multiplied by a gate g = 1; s[c] = sum over batches of (d loss / d g[c])^2, with the batch's mean
cross-entropy as loss. The square is taken after the mean over the images, so scores depend on the batch size.
Official repository: NVlabs/Taylor_pruning (pruning_engine.py, method 22).
Reads the channel: the output of the batch normalisation behind the convolution, the convolution's own where there is none.
Deviations:
1. The paper removes some channels every few batches of training and estimates again; here the dense network is scored once, on
   all batches, and selection and fine-tuning are shared.
2. Eval mode, as every criterion here. The repository accumulates while it trains: batch statistics, gradients clipped to norm 1.
3. The repository averages over the batches, which changes no ranking.
4. On ResNets the repository puts one gate a stage behind the residual sum, its score divided by the number of blocks; here every
   convolution that writes into the sum has its own gate, and the scores are summed where such channels are pruned.
5. Segmentation (ours): an image's loss is the mean over its pixels that are not void.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgp.methods import Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="Taylor", needs=frozenset({"gradient", "labels"}), selection="global", paper_name="Taylor")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}; `seed` is not read. A layer that does not run in eval mode (auxiliary head) scores 0.

    Raises:
        FgpError: `batches` is empty, the labels do not fit, or the loss is not finite.
    """
    from contextlib import ExitStack

    import torch

    from fgp.errors import FgpError
    from fgp.layers import convolutions, norms_after
    from fgp.scoring.checks import check_model, differentiable, place
    from fgp.scoring.losses import gradients, sample_losses

    check_model(model)
    scores = {}
    with differentiable(model), ExitStack() as hooks:
        gates = {name: torch.ones_like(layer.weight[:, 0, 0, 0]).requires_grad_() for name, layer in convolutions(model).items()}
        for images, labels in batches:
            images = place(images, model)
            if not scores:
                for name, norm in norms_after(model, images).items():
                    gated = model.get_submodule(norm or name)
                    hook = gated.register_forward_hook(lambda _, __, output, gate=gates[name]: output * gate[:, None, None])
                    hooks.callback(hook.remove)
            loss = sample_losses(model(images), labels).mean()
            for name, gradient in zip(gates, gradients(loss, list(gates.values())), strict=True):
                scores[name] = scores.get(name, 0) + gradient.double() ** 2
    if not scores:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    return {name: values.float().cpu() for name, values in scores.items()}
