"""What each channel adds to sampled outputs of the layers that read it."""

import contextlib
import functools
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fgp.errors import FgpError
from fgp.scoring.checks import check_model, example_of, place
from fgp.surgery import Structure


def products(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int, images: int, positions: int
) -> tuple[Structure, dict[str, dict[str, Tensor]]]:
    """Return the network's structure (tied) and x^T x of each group and reader: {leader: {layer: float64 (C, C)}}.

    x[i,c] is what the channel adds to the reader's i-th sampled output.

    Args:
        model: a network in eval mode, left as it was.
        batches: of images and labels; the labels are not read.
        seed: of the sampled outputs.
        images: how many images are read, the first ones.
        positions: outputs sampled an image and reader.

    Raises:
        FgpError: `batches` is empty, a transposed convolution reads channels that could be removed, or a map is not finite.
    """
    left = images
    check_model(model)
    example = example_of(model, batches)
    structure = Structure(model, example, tied=True)
    found: dict[str, dict[str, Tensor]] = {group.leader: {} for group in structure.prunable}
    reads: dict[str, dict[str, Tensor]] = {}
    for leader in found:
        for name, index in structure.consumers(leader).items():
            if not isinstance(layer := model.get_submodule(name), nn.Conv2d | nn.Linear):
                kind = type(layer).__name__
                raise FgpError(f"{name}: sampled are outputs of Conv2d and Linear, not of {kind}; choose another method")
            reads.setdefault(name, {})[leader] = index.to(example.device)
    generators = {name: torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode())) for name in reads}

    def sample(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        draws = torch.rand(len(features), positions, 3, generator=generators[name], dtype=torch.float64)
        terms = contributions(layer, features, draws.to(features.device)).flatten(0, 1).double()
        for leader, index in reads[name].items():
            x = terms[:, index].sum(2)
            found[leader][name] = found[leader].get(name, 0) + x.T @ x

    with (
        contextlib.ExitStack() as hooks,
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(example.device.type, enabled=False),
    ):
        for name in reads:
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(functools.partial(sample, name)).remove)
        for batch, _ in batches:
            model(place(batch, model)[:left])
            left -= len(batch)
            if left <= 0:
                break
    for readers in found.values():
        for name, product in readers.items():
            if not product.isfinite().all():
                raise FgpError(f"{name}: its input is NaN or infinite; check the weights and the normalisation of the images")
    return structure, found


def contributions(layer: nn.Conv2d | nn.Linear, features: Tensor, draws: Tensor) -> Tensor:
    """Return what each input channel adds to sampled outputs of `layer`: (N, P, input channels).

    Args:
        layer: a convolution that is not grouped, or a linear layer.
        features: its input, (N, C, H, W) or (N, ..., C).
        draws: (N, P, 3) in [0, 1): filter, row and column of each sampled output, as shares of their number.
    """
    if isinstance(layer, nn.Linear):
        weights = layer.weight[..., None, None]
        windows = features.reshape(len(features), -1, 1, layer.in_features).permute(0, 3, 1, 2)[..., None, None]
    else:
        weights = layer.weight
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        windows = pad(features, layer._reversed_padding_repeated_twice, mode)
        for axis in (0, 1):
            span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
            windows = windows.unfold(2 + axis, span, layer.stride[axis])
        windows = windows[..., :: layer.dilation[0], :: layer.dilation[1]]
    sizes = draws.new_tensor([len(weights), *windows.shape[2:4]])
    chosen, row, column = (draws * sizes).long().unbind(2)
    image = torch.arange(len(features), device=features.device)[:, None]
    return (windows[image, :, row, column] * weights[chosen]).sum((3, 4))
