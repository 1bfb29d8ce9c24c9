"""FGP's channel importance (arXiv 2411.12781, Equations 6 to 9) and its variants.

For image n, class d, and channel c of a convolution whose output is F (H x W), with y[n,d] the logit of class d:

    alpha[n,c,d] = mean over (u,v) of G[n,c,d](u,v),   G[n,c,d](u,v) = d y[n,d] / d F[n,c](u,v)
    M[n,c,d]     = ReLU(alpha[n,c,d] F[n,c])
    I[c]         = sum over images n, classes d active in n, positions (u,v) of M[n,c,d](u,v)

Canonical: F is the raw output of the convolution (before batch normalisation and ReLU), the network is in eval mode, y is the logit.
In classification the active class is the image's label. In segmentation every class in the label image is active, and y[n,d] is the sum
of logit d over the pixels labelled d; void pixels (255) belong to no class.

Variants, each one keyword of `score`. The right column replaces the line above in which its left side stands.

| keyword | formula |
| --- | --- |
| `feature="postrelu"` | F is read after the batch normalisation and the ReLU that directly follow the convolution, as far as there are any; G is with respect to that F |
| `form="gapfirst"` | sum over (u,v) of M = ReLU(alpha sum over (u,v) of F) |
| `form="elementwise"` | M = ReLU(G F), position by position |
| `form="abs"` | M = abs(alpha F) |
| `normalise="minmax_u8"` | M becomes floor(255 (M - min M) / (max M - min M)) / 255, minimum and maximum over the positions of each M[n,c,d]; a constant map becomes 0 |
| `normalise="jointmax"` | M becomes M / (max of M[n,:,d] over the channels of the layer and the positions); a layer of zeros stays 0 |
| `target="softmax"` | y uses softmax over the classes (of each pixel) in place of the logits |
| `classes="predicted"` | the class of an image (of a pixel) is the argmax of the logits in place of the label; void pixels stay void |
| `classes="correct"` | as canonical, but only images (pixels) whose argmax is the label |
| `classes="all"` | every class is active in every image; in segmentation y[n,d] is the sum of logit d over all pixels but void |
| `evidence="feature"` | alpha = 1 (`feature_only` in the paper's Table 3) |
| `evidence="gradient"` | F = 1 (`gradient_only`): M = ReLU(alpha), so a layer's sum carries the factor H W |
"""  # noqa: E501

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from fgp.scoring.engine import importance
from fgp.scoring.maps import heatmaps
from fgp.variants import Variant

__all__ = ["heatmaps", "score"]


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    feature: str = "conv",
    form: str = "canonical",
    normalise: str | None = None,
    target: str = "logit",
    classes: str = "true",
    evidence: str = "both",
    output: Callable[[object], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Score every channel of every Conv2d of `model` by FGP's importance; high = keep.

    Costs one forward pass and, per image, as many backward passes as it has active classes, with respect to activations only. The
    network is left as it was. The batch size does not change the result beyond rounding.

    Args:
        model: a network in eval mode, float32 or float64. Each convolution may be called once a forward pass; one that is not
            called (an auxiliary head that only trains), or that the logits do not depend on, scores 0, with a warning. Writing in
            place on a convolution's output is fine. Other operations must not mix the images of a batch.
        batches: of images (N, 3, H, W), normalised floats, and integer labels (N,) or (N, H, W), 255 = void; read once.
        feature, form, normalise, target, classes, evidence: see the table in the module's docstring.
        output: picks the logits (N, D) or (N, D, H, W) from what the network returns. By default a tensor is taken as it is and a
            mapping by its entry "out".

    Returns:
        {layer name: (C_out,)} on the CPU, float32, or float64 for a float64 network.

    Raises:
        FgpError: an unknown or contradictory variant; a network in training mode, with batch statistics, or that calls a
            convolution twice or turns gradients off; labels out of range or of the wrong shape; no image, or none with an active
            class; an activation or gradient that is NaN or infinite. The message names the layer.
    """
    variant = Variant.of(
        {
            "feature": feature,
            "form": form,
            "normalise": normalise,
            "target": target,
            "classes": classes,
            "evidence": evidence,
        }
    )
    return importance(model, batches, variant, output)
