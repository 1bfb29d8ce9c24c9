"""Heat maps of single channels and classes, for Figure 1."""

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.layers import convolutions
from fgp.scoring.capture import Capture
from fgp.scoring.checks import check_model, differentiable, place
from fgp.scoring.logits import check_labels, pick_logits


def heatmaps(
    model: nn.Module, images: Tensor, labels: Tensor, layer: str, *, output: Callable[[object], Tensor] | None = None
) -> Tensor:
    """Return M[n,c,d] of one convolution for every class d, active or not: (N, C, D, H, W), on the network's device.

    M[n,c,d] = ReLU(alpha[n,c,d] F[n,c]), canonical (see `fgp.scoring`). In classification y[n,d] is logit d whatever the label.
    In segmentation it is the sum of logit d over the pixels labelled d: the maps of absent classes are 0. `fgp.score` adds up the
    maps of the active classes over (u,v). `.mean(0)` shows a set of images.

    Costs one forward pass and D backward passes down to `layer`; the result holds N C D H W numbers, so give few images.

    Args:
        model: a network in eval mode, left as it was.
        images: (N, 3, H, W), normalised floats.
        labels: integers (N,) or (N, H, W), 255 = void.
        layer: name of a Conv2d in `model.named_modules()`.
        output: picks the logits, as in `fgp.score`.

    Raises:
        FgpError: no such layer, or it is not called; and as `fgp.score`.
    """
    layers = convolutions(model)
    if layer not in layers:
        close = difflib.get_close_matches(layer, layers, n=3) or list(layers)
        raise FgpError(f"layer {layer!r}: no Conv2d of that name; use {' or '.join(close)}")
    check_model(model)
    features, gradients = [], []
    with differentiable(model):
        capture = Capture(
            model,
            {layer: layers[layer]},
            on_feature=lambda _, feature: features.append(feature.clone()),
            on_gradient=lambda _, gradient: gradients.append(gradient.mean((2, 3))),
        )
        with capture:
            logits = pick_logits(model(place(images, model)), output)
        if not features:
            raise FgpError(f"layer {layer!r}: not called in a forward pass; choose another")
        classes = check_labels(labels, logits)
        for d in range(logits.shape[1]):
            chosen = torch.zeros_like(logits)
            chosen[:, d] = (classes == d) if labels.ndim == 3 else 1
            torch.autograd.grad(logits, capture.starts, chosen, retain_graph=True)
    alpha = torch.stack(gradients, 2)
    return (alpha[..., None, None] * features[0][:, :, None]).clamp(min=0)
