"""`fgp.score`: forward and backward passes over the batches, importance summed per channel."""

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fgp.errors import FgpError
from fgp.layers import convolutions
from fgp.scoring import formulas
from fgp.scoring.capture import Capture
from fgp.scoring.checks import check_model, differentiable, place
from fgp.scoring.logits import check_labels, pick_logits
from fgp.scoring.targets import Targets
from fgp.variants import Variant


def importance(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    variant: Variant,
    output: Callable[[object], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Score every channel of every Conv2d: `fgp.score`, with the variant as one object."""
    layers = convolutions(model)
    dtype = check_model(model)
    images_seen, active, reached = 0, 0, set()
    with differentiable(model):
        totals = {
            name: torch.zeros(layer.out_channels, dtype=torch.float64, device=layer.weight.device)
            for name, layer in layers.items()
        }
        for images, labels in batches:
            batch = _Batch(model, layers, variant, output)
            batch.run(place(images, model), labels)
            for name, sums in batch.sums.items():
                totals[name] += sums
            images_seen += len(images)
            active += batch.active
            reached |= batch.sums.keys()
    if not images_seen:
        raise FgpError("batches: holds no image; give at least one batch of (images, labels)")
    if not active:
        raise FgpError(
            f"batches: none of the {images_seen} images has an active class (classes={variant.classes!r}); nothing to score"
        )
    if unreached := [name for name in layers if name not in reached]:
        warnings.warn(f"scored 0, as in eval mode the logits do not depend on them: {', '.join(unreached)}", stacklevel=3)
    return {name: total.to("cpu", dtype) for name, total in totals.items()}


class _Batch:
    """One batch: reads features in the forward pass and adds up importance in the backward passes.

    Attributes:
        sums: {layer: float64 (C_out,)}, importance summed over images and their active classes.
        active: pairs of image and active class.
    """

    def __init__(self, model: nn.Module, layers: dict, variant: Variant, output: Callable | None) -> None:
        self._model, self._layers, self._variant, self._output = model, layers, variant, output
        self._kept: dict[str, formulas.Sums | Tensor] = {}
        self._alphas: dict[str, Tensor] = {}
        self._checksums: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.active = 0

    def run(self, images: Tensor, labels: Tensor) -> None:
        variant = self._variant
        by_gradient = variant.evidence != "feature"
        capture = Capture(
            self._model, self._layers, self._on_feature, self._on_gradient if by_gradient else None, variant.feature == "postrelu"
        )
        with capture, torch.set_grad_enabled(by_gradient):
            logits = pick_logits(self._model(images), self._output)
        if len(logits) != len(images):
            raise FgpError(f"the network returns {len(logits)} rows of logits for {len(images)} images; pass output=")
        targets = Targets(logits, check_labels(labels, logits), variant.classes)
        self.active = int(targets.counts.sum())
        self._refuse_infinite(
            capture.called, {name: formulas.checksum(kept) for name, kept in self._kept.items()}, "an activation"
        )
        if by_gradient:
            self._backward(logits, targets, capture)
            self._refuse_infinite(capture.called, self._checksums, "a gradient")
        else:
            for name, kept in self._kept.items():
                self._add(name, (formulas.importance(kept, None, variant) * targets.counts[:, None]).double().sum(0))

    def _backward(self, logits: Tensor, targets: Targets, capture: Capture) -> None:
        if not logits.requires_grad:
            raise FgpError(
                "the logits do not depend on any convolution by differentiable steps; see whether the network detaches them"
            )
        y = logits.softmax(1) if self._variant.target == "softmax" else logits
        for turn, chosen in enumerate(targets, start=1):
            total = (y * chosen).sum()  # a gradient that torch is given, it checks by importing sympy: a third of a second
            torch.autograd.grad(total, capture.starts, retain_graph=turn < targets.passes, allow_unused=True)
            self._add_alphas()

    def _on_feature(self, name: str, feature: Tensor) -> None:
        self._kept[name] = formulas.keep(feature, self._variant)

    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        kept = self._kept[name]
        if isinstance(kept, formulas.Sums):
            self._alphas[name] = gradient.mean((2, 3))
        else:
            self._add(name, formulas.importance(kept, gradient, self._variant).double().sum(0))
            self._checksums[name] = self._checksums.get(name, 0) + gradient.sum()

    def _add_alphas(self) -> None:
        """Add the importance of one backward pass, all layers in one computation: few small kernels on a GPU."""
        if not self._alphas:
            return
        alphas = torch.cat(list(self._alphas.values()), 1)
        kept = formulas.Sums.cat(self._kept[name] for name in self._alphas)
        sums = formulas.importance(kept, alphas, self._variant).double().sum(0)
        widths = [alpha.shape[1] for alpha in self._alphas.values()]
        for name, part, checksum in zip(self._alphas, sums.split(widths), alphas.sum(0).split(widths), strict=True):
            self._add(name, part)
            self._checksums[name] = self._checksums.get(name, 0) + checksum.sum()
        self._alphas.clear()

    def _add(self, name: str, contribution: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + contribution

    def _refuse_infinite(self, order: list[str], checksums: dict[str, Tensor], what: str) -> None:
        names = [name for name in order if name in checksums]
        if names:
            finite = torch.stack([checksums[name] for name in names]).isfinite().tolist()
            if not all(finite):
                first = names[finite.index(False)]
                raise FgpError(f"{first}: {what} is NaN or infinite; check the weights and the normalisation of the images")
