"""The networks of the suite, by name. Importing this package does not load torch; building a network does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fgp.models.names import NAMES, NETWORKS, Spec, make_spec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NAMES", "NETWORKS", "Spec", "build"]


def build(name: str, num_classes: int, width: float = 1.0) -> nn.Module:
    """Build a network with random weights.

    The network takes float images `(N, 3, H, W)`. In eval mode it returns logits, `(N, num_classes)` for classification and
    `(N, num_classes, H, W)` for segmentation; in training mode a network with an auxiliary head returns `(logits, aux_logits)`.

    Args:
        name: one of `NAMES`.
        num_classes: network outputs.
        width: factor on every channel count but the input's and the output's; the product is rounded to the nearest integer,
            halves up, at least 1.

    Returns:
        The network in training mode on torch's default device, its `Spec` attached as `fgp_spec`.

    Raises:
        FgpError: unknown name, a class count or width out of range, or a width other than 1 for a network of another library.
    """
    spec = make_spec(name, num_classes, width)
    network = NETWORKS[name]
    module = importlib.import_module(f"fgp.models.{network.module}")
    model = getattr(module, network.function)(spec.num_classes, spec.width)
    model.fgp_spec = spec
    return model
