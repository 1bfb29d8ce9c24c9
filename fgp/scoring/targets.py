"""What FGP differentiates: which logits count for which image."""

from collections.abc import Iterator

import torch
from torch import Tensor


class Targets:
    """The y[n,d] of one batch, arranged so that one backward pass serves one class of every image.

    Images do not influence each other (batch normalisation in eval mode), so a pass may differentiate another class in each one:
    the passes are as many as the image with most active classes needs, not the union over the batch.

    Attributes:
        counts: int64 (N,), the active classes of each image.
        passes: how many backward passes it takes.
    """

    def __init__(self, logits: Tensor, labels: Tensor, classes: str) -> None:
        """Take `logits` (N, D, H, W), `labels` from `fgp.scoring.logits.check_labels` and `classes` as in `fgp.score`."""
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
