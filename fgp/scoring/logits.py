"""The logits of whatever a network returns, and labels that fit them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fgp.errors import FgpError

VOID = 255


def pick_logits(returned: object, output: Callable[[object], Tensor] | None) -> Tensor:
    """Return the logits as (N, D, H, W), with H = W = 1 in classification.

    Args:
        returned: what the network returned.
        output: picks the logits from it; None: a tensor is taken as it is, a mapping by its entry "out".

    Raises:
        FgpError: there are no logits of shape (N, D) or (N, D, H, W).
    """
    if output:
        returned = output(returned)
    elif isinstance(returned, Mapping) and "out" in returned:
        returned = returned["out"]
    if not isinstance(returned, Tensor):
        raise FgpError(f"the network returns {_describe(returned)}; pass output=, a function that picks the logits from it")
    if returned.ndim not in (2, 4) or not returned.is_floating_point():
        raise FgpError(
            f"the network returns {returned.dtype} of shape {tuple(returned.shape)}; "
            "logits are floats (N, D) or (N, D, H, W), pass output="
        )
    return returned if returned.ndim == 4 else returned[:, :, None, None]


def _describe(returned: object) -> str:
    if isinstance(returned, Mapping):
        return f"a mapping with the keys {', '.join(map(str, returned))}"
    if isinstance(returned, tuple | list):
        return f"a {type(returned).__name__} of {len(returned)}"
    return type(returned).__name__


def check_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the labels as int64 (N, H, W) with void as -1, next to `logits` (N, D, H, W).

    Raises:
        FgpError: the shapes do not fit, the labels are no integers, or one names no output.
    """
    count, outputs, height, width = logits.shape
    dense = labels.ndim != 1
    wanted = (count, height, width) if dense or height * width > 1 else (count,)
    if labels.shape != wanted:
        raise FgpError(f"labels have shape {tuple(labels.shape)}, the logits ask for {wanted}; see `batches` of fgp.score")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise FgpError(f"labels are {labels.dtype}; give class numbers as integers")
    labels = labels.to(logits.device, torch.int64).view(count, height, width)
    void = (labels == VOID) if dense else torch.zeros_like(labels, dtype=torch.bool)
    wrong = labels[~void & ((labels < 0) | (labels >= outputs))]
    if len(wrong):
        allowed = f"0 to {outputs - 1}" + f" or {VOID} (void)" * dense
        raise FgpError(f"labels hold {int(wrong[0])}, the network has {outputs} outputs; labels are {allowed}")
    return labels.masked_fill(void, -1)
