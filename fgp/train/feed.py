"""The raw images of a training, batch by batch, on its device."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_AHEAD = 3


class Feed:
    """Hands out uint8 images and their labels in a given order.

    The whole split lies on the device where it takes at most half of the device's free memory. Otherwise a thread gathers the
    next batches in page-locked memory while the device computes, and they are copied without waiting; the batches are the same.

    Attributes:
        resident: whether the split lies on the device.
    """

    def __init__(self, split, device: torch.device) -> None:
        """Take the images of `split`, an `fgp.data.Split`, to `device` where they fit."""
        self.resident = fits(split, device)
        self._device = device
        images, labels = split.images, split.labels
        self._images, self._labels = (images.to(device), labels.to(device)) if self.resident else (images, labels)

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 (N, 3, H, W), labels as in the split), both on the device, one pair a part of `order`.

        Args:
            order: int64 indices of images, on the CPU.
            parts: which of them make a batch.
        """
        if self.resident:
            order = order.to(self._device)
            for part in parts:
                yield self._images[order[part]], self._labels[order[part]]
        else:
            yield from self._streamed(order, parts)

    def _streamed(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1, "feed") as reader:
            waiting: deque = deque()
            try:
                for part in parts:
                    waiting.append(reader.submit(self._gather, order[part]))
                    if len(waiting) > _AHEAD:
                        yield self._sent(waiting.popleft().result())
                while waiting:
                    yield self._sent(waiting.popleft().result())
            finally:
                reader.shutdown(cancel_futures=True)

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._images[index], self._labels[index]
        return tuple(part.pin_memory() for part in batch) if self._device.type == "cuda" else batch

    def _sent(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = (part.to(self._device, non_blocking=True) for part in batch)
        return images, labels


def fits(split, device: torch.device) -> bool:
    """Tell whether the images of a split take at most half of the free memory of a CUDA device; on the CPU they always fit."""
    return device.type != "cuda" or 2 * split.images.numel() <= torch.cuda.mem_get_info(device)[0]
