"""What is differentiated: the logits of a network, and which of them count for which image."""

from collections.abc import Callable, Iterator, Mapping

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


class Targets:
    """The y[n,d] of one batch, arranged so that one backward pass serves one class of every image.

    Images do not influence each other (batch normalisation in eval mode), so a pass may differentiate another class in each one:
    the passes are as many as the image with most active classes needs, not the union over the batch.

    Attributes:
        counts: int64 (N,), the active classes of each image.
        passes: how many backward passes it takes.
    """

    def __init__(self, logits: Tensor, labels: Tensor, classes: str) -> None:
        """Take `logits` (N, D, H, W), `labels` from `check_labels` and `classes` as in `fgp.score`."""
        self._like = logits
        outputs = logits.shape[1]
        if classes == "predicted":
            labels = logits.detach().argmax(1).where(labels >= 0, -1)
        elif classes == "correct":
            labels = labels.where(logits.detach().argmax(1) == labels, -1)
        self._labels = labels
        self._all = classes == "all"
        if self._all:
            self.counts = outputs * (labels >= 0).flatten(1).any(1)
            self.passes = outputs
        else:
            index = labels.where(labels >= 0, outputs).flatten(1)
            shown = logits.new_zeros((len(labels), outputs + 1), dtype=torch.int64).scatter_(1, index, 1)
            shown[:, outputs] = 0
            self.counts = shown.sum(1)
            self.passes = int(self.counts.max())
            rank = (shown.cumsum(1) - 1).gather(1, index).view_as(labels)
            self._rank = rank.where(labels >= 0, -1)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield, for each pass, the gradient of the sum of the y[n,d] that it covers: zeros and ones like the logits."""
        for turn in range(self.passes):
            chosen = torch.zeros_like(self._like)
            if self._all:
                chosen[:, turn] = self._labels >= 0
            else:
                chosen.scatter_(1, self._labels.clamp(min=0)[:, None], (self._rank == turn).to(chosen.dtype)[:, None])
            yield chosen
