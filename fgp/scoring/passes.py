"""Forward passes of the methods that read feature maps."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.layers import convolutions
from fgp.scoring.capture import Capture, Reader
from fgp.scoring.checks import check_model, place


def feature_maps(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    read: Callable[[str, Tensor, Tensor], None],
    *,
    after_relu: bool = False,
    most_batches: int | None = None,
) -> int:
    """Run `model` on `batches` and hand every convolution's feature map to `read`, once a layer and batch.

    One image runs once more, ahead, to see how many places of each layer there are to read.

    A convolution that is not called in eval mode (an auxiliary head that only trains) is never read. The network is left as it
    was.

    Args:
        model: a network in eval mode, float32 or float64. Each convolution may be called once a forward pass.
        batches: of images (N, 3, H, W), normalised floats, and labels, which are handed on as they are.
        read: called with the layer's name, its map (N, C, H, W) without history, on the network's device, and the labels. The
            map is read at once and may be overwritten later: keep a copy, not the tensor.
        after_relu: read behind the batch normalisation and the ReLU that directly follow the convolution, as far as there are
            any, in place of the convolution's own output.
        most_batches: read no more batches than these; None: all.

    Returns:
        The number of images.

    Raises:
        FgpError: a network in training mode, with batch statistics, or that calls a convolution twice; no image; a map that is
            NaN or infinite. The message names the layer.
    """
    layers = convolutions(model)
    check_model(model)
    device = next(iter(layers.values())).weight.device.type
    places, count = Counter(), 0

    def forward(images: Tensor, reader: Reader) -> None:
        with Capture(model, layers, reader, None, after_relu):
            model(images)

    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        for images, labels in islice(batches, most_batches):
            images = place(images, model)
            if not places:
                forward(images[:1], lambda name, _: places.update([name]))
            forward(images, _LastPlace(places, lambda name, maps, labels=labels: read(name, _finite(name, maps), labels)))
            count += len(images)
    if not count:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    return count


class _LastPlace:
    """Passes on a layer's map at the last of the places where it is read: convolution, normalisation, ReLU."""

    def __init__(self, places: Counter, read: Reader) -> None:
        self._left, self._read = places.copy(), read

    def __call__(self, name: str, maps: Tensor) -> None:
        self._left[name] -= 1
        if not self._left[name]:
            self._read(name, maps)


def _finite(name: str, maps: Tensor) -> Tensor:
    if not maps.sum().isfinite():
        raise FgpError(f"{name}: a feature map is NaN or infinite; check the weights and the normalisation of the images")
    return maps
