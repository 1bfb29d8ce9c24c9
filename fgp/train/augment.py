"""Augmentation of uint8 batches on their device: every draw of an epoch at once, every image of a batch at once.

Classification is torchvision's RandomCrop(size, padding) + RandomHorizontalFlip + ToTensor + Normalize: the padding is black in
raw pixels. Segmentation is random resize + random crop + flip, as in the DeepLab recipes: bilinear (without antialiasing) for
images, nearest for labels; an image smaller than the crop lies in its upper left corner, the rest is black and void.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fgp.train.recipe import Recipe


@dataclass(frozen=True)
class Draws:
    """The random choices for n images; slicing picks images.

    Attributes:
        size: (n, 2) int64, height and width after the resize, in pixels.
        corner: (n, 2) int64, top and left of the crop in the resized and padded image, in pixels.
        flip: (n,) bool.
    """

    size: Tensor
    corner: Tensor
    flip: Tensor

    def __getitem__(self, which: slice) -> "Draws":
        return Draws(self.size[which], self.corner[which], self.flip[which])


class Augmentation:
    """Draws and applies the augmentation of `recipe` to images of `size` = (height, width).

    Attributes:
        crop_size: (height, width) of the images that come out.
    """

    def __init__(self, recipe: Recipe, size: tuple[int, int], void: int, mean: Tensor, std: Tensor) -> None:
        """Take `void`, the label of padding, and `mean`, `std` (3,), of pixels in 0..1, on the device of the images."""
        self.crop_size = tuple(recipe.crop_size or size)
        self._recipe, self._size, self._void = recipe, tuple(size), void
        self._factor = (1 / (255 * std)).view(1, 3, 1, 1)
        self._shift = (-mean / std).view(1, 3, 1, 1)

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Draws:
        """Draw the choices for `count` images from a CPU generator and move them to `device`."""
        shape = torch.tensor(self._size)
        size = shape.expand(count, 2)
        if self._recipe.scale_range:
            low, high = self._recipe.scale_range
            scale = low + (high - low) * torch.rand(count, 1, generator=generator)
            size = (shape * scale).round().long().clamp(min=1)
        room = (size + 2 * self._recipe.crop_padding - torch.tensor(self.crop_size)).clamp(min=0)
        corner = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * (room + 1)).long()
        flip = torch.rand(count, generator=generator) < 0.5 if self._recipe.flip else torch.zeros(count, dtype=torch.bool)
        return Draws(size.to(device), corner.to(device), flip.to(device))

    def apply(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Augment and normalise a batch.

        Args:
            images: uint8 (N, 3, H, W).
            labels: uint8 or int64, (N,) or (N, H, W).
            draws: the choices for these N images.

        Returns:
            Float32 (N, 3, h, w), normalised, and int64 labels (N,) or (N, h, w).
        """
        dense = labels.ndim == 3
        if self._recipe.scale_range:
            images, labels = _resized_crop(images, labels, draws, self.crop_size, self._void)
        elif self._recipe.crop_padding or self.crop_size != self._size:
            images = _crop(images, draws.corner, self.crop_size, self._recipe.crop_padding, 0)
            if dense:
                labels = _crop(labels.unsqueeze(1), draws.corner, self.crop_size, 0, self._void).squeeze(1)
        if self._recipe.flip:
            images = torch.where(draws.flip.view(-1, 1, 1, 1), images.flip(-1), images)
            if dense:
                labels = torch.where(draws.flip.view(-1, 1, 1), labels.flip(-1), labels)
        return torch.addcmul(self._shift, images.float(), self._factor), labels.long()


def _crop(images: Tensor, corner: Tensor, size: tuple[int, int], padding: int, fill: int) -> Tensor:
    """Cut a window of `size` at every image's own corner, out of a view of all windows of the padded images."""
    height, width = size
    below = max(0, height - images.shape[2] - 2 * padding)
    right = max(0, width - images.shape[3] - 2 * padding)
    padded = F.pad(images, (padding, padding + right, padding, padding + below), value=fill)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, corner[:, 0], corner[:, 1]]


def _resized_crop(images: Tensor, labels: Tensor, draws: Draws, size: tuple[int, int], void: int) -> tuple[Tensor, Tensor]:
    """Resize every image to its own draws.size and crop: one sampling of the source at the places that the crop shows."""
    places, nearest, inside = [], [], []
    for axis in (0, 1):
        source, target = images.shape[2 + axis], draws.size[:, axis, None]
        position = draws.corner[:, axis, None] + torch.arange(size[axis], device=images.device)
        inside.append(position < target)
        at = ((position + 0.5) * source / target - 0.5).clamp(0, source - 1)
        places.append(at * (2 / max(1, source - 1)) - 1)
        nearest.append(((2 * position + 1) * source // (2 * target)).clamp(max=source - 1))
    shown = inside[0][:, :, None] & inside[1][:, None, :]
    shape = shown.shape
    grid = torch.stack((places[1][:, None, :].expand(shape), places[0][:, :, None].expand(shape)), dim=-1).float()
    images = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=True) * shown.unsqueeze(1)
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    picked = labels[image, nearest[0][:, :, None], nearest[1][:, None, :]]
    return images, torch.where(shown, picked, void)
