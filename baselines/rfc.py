"""RFC: how mixed the classes of the images are that a channel responds to most; few classes = keep.

Paper: He et al. 2022, "Filter Pruning via Feature Discrimination in Deep Neural Networks" (ECCV 2022; no arXiv version).
Equation: s[c] = sum over classes d of p[d] log2 p[d], where p[d] is the share of class d among the `top_images` images with the
largest ||F[n,c]||_2.
Official repository: Bighhhzq/DLRFC (RFC.py, models/assistant_net.py).
Reads the channel: behind the convolution's batch normalisation and, where one follows directly, ReLU, in eval mode.
Deviations:
1. The paper prunes step by step the layers that it finds redundant, by the change of outputs and accuracy (DLRFC); here its
   criterion scores the dense network once, and selection (the same ratio in every layer) and fine-tuning are shared.
2. Of fewer than 1280 images only the stronger half counts: among all images every channel has the same classes. The repository
   reads 50 batches of 256 augmented training images; here the batches are as given, 50 at most.
3. Images of equal norm that compete for the last places share them equally, where the repository leaves it to its sorting.
4. A channel that is zero on every image scores -log2(number of classes), the least there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.errors import FgpError
from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

METHOD = Method(label="RFC", needs=frozenset({"forward", "labels"}), tasks=frozenset({"classification"}))


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    *,
    most_batches: Annotated[int, Field(ge=1, description="batches that are read, the first ones")] = 50,
    top_images: Annotated[
        int, Field(ge=1, description="how many of the images that a channel responds to most; at most half of all count")
    ] = 640,
) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, from -log2(number of classes) to 0.

    A layer without normalisation or ReLU behind it is read as it is; one that is not called in eval mode scores 0.

    Args:
        model: a network in eval mode, left as it was.
        batches: of images (N, 3, H, W) and labels (N,); the first `most_batches` are read.
        seed: not read.
        most_batches, top_images: see their descriptions.

    Raises:
        FgpError: the labels are not one class number an image, or see `fgp.scoring.passes.feature_maps`.
    """
    import torch

    from fgp.layers import convolutions
    from fgp.scoring.passes import feature_maps

    norms, labels = {name: [] for name in convolutions(model)}, {name: [] for name in convolutions(model)}

    def read(name: str, maps: Tensor, classes: Tensor) -> None:
        if classes.shape != maps.shape[:1] or classes.is_floating_point():
            raise FgpError(f"labels are {classes.dtype} of shape {tuple(classes.shape)}; rfc needs one class number an image")
        norms[name].append(maps.flatten(2).norm(dim=2))
        labels[name].append(classes.to(maps.device))

    images = feature_maps(model, batches, read, after_relu=True, most_batches=most_batches)
    count = max(1, min(top_images, images // 2))
    return {
        name: -_label_entropies(torch.cat(norms[name]), torch.cat(labels[name]), count).float().cpu()
        if norms[name]
        else torch.zeros(layer.out_channels)
        for name, layer in convolutions(model).items()
    }


score = checked(score)


def _label_entropies(norms: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the entropy in bits of the classes of the `count` strongest images: norms (N, C), labels (N,) to (C,), float64."""
    import torch
    from torch.nn.functional import one_hot

    least = norms.topk(count, dim=0).values[-1]
    above, level = (norms > least).double(), (norms == least).double()
    chosen = above + level * (count - above.sum(0)) / level.sum(0)
    classes = one_hot(labels.unique(return_inverse=True)[1]).double()
    entropies = torch.special.entr(classes.T @ chosen / count).sum(0) / math.log(2)
    return entropies.where(norms.any(0), math.log2(classes.shape[1]))
