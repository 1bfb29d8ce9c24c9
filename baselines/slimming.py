"""Slimming: L1 on the scales of batch normalisation during training, then the scale as score.

Paper: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (arXiv 1708.06519), Equation 1.
Equation: loss + strength * sum over all BN scales of |gamma|; s[c] = |gamma[c]| of the BN behind the convolution.
Official repository: Eric-mingjie/network-slimming (main.py, vggprune.py).
Reads the channel: the scale of the batch normalisation that takes the convolution's output.
Deviations:
1. The penalty is part of the loss; the repository adds its subgradient strength * sign(gamma) to the gradient, which is the same.
2. The strength follows the network: 1e-5 for networks with a residual backbone, 1e-4 for others, as the paper does.
3. A convolution without normalisation whose channels are the logits of a segmentation network scores 1: it is never pruned.
4. Pre-activation networks, where the scale stands in front of the convolution, are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.errors import FgpError
from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from fgp.train.hooks import Hook

METHOD = Method(label="Slimming", kind="sparse-training", needs=frozenset({"weights"}), selection="global", paper_name="Slimming")

STRENGTH = {"plain": 1e-4, "residual": 1e-5}
_RESIDUAL = ("resnet", "deeplab")


def training(
    *,
    strength: Annotated[
        float | None,
        Field(ge=0, description="factor of the penalty; if left out 1e-5 for ResNets and DeepLab, 1e-4 for other networks"),
    ] = None,
) -> Hook:
    """Return the penalty strength * sum of |gamma| over every BatchNorm2d, to be added to the loss.

    Raises:
        FgpError: in training, the network has no batch normalisation with a scale.
    """
    from fgp.train.hooks import Penalty

    def penalty(model: nn.Module) -> Tensor:
        from torch import nn

        scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.weight is not None]
        if not scales:
            raise FgpError(
                f"{type(model).__name__}: slimming needs BatchNorm2d layers with a scale, there is none; choose another method"
            )
        return (strength_for(model) if strength is None else strength) * sum(scale.abs().sum() for scale in scales)

    return Penalty(penalty)


training = checked(training)


def strength_for(model: nn.Module) -> float:
    """Return the paper's factor for a network: smaller where the backbone is residual."""
    spec = getattr(model, "fgp_spec", None)
    return STRENGTH["residual" if spec and any(part in spec.name for part in _RESIDUAL) else "plain"]


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}.

    One image of `batches` is run to see which normalisation takes which convolution's output; `seed` is not read.

    Raises:
        FgpError: a convolution inside the network is followed by no normalisation with a scale, or `batches` is empty.
    """
    from fgp.scoring.checks import check_model, example_of
    from fgp.scoring.norms import scaled_norms, with_output_layers

    check_model(model)
    norms = scaled_norms(model, example_of(model, batches))
    scales = {layer: model.get_submodule(norm).weight.detach().abs() for layer, norm in norms.items() if norm}
    return with_output_layers(model, scales)
