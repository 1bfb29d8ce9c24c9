"""CAP: Slimming whose penalty spares the channels that many others resemble, as they carry the context of the scene.

Paper: He et al. 2021, "CAP: Context-Aware Pruning for Semantic Segmentation" (WACV 2021; no arXiv version).
Equation: loss + strength * sum over channels of all BN of (1 - g[c]) |gamma[c]|; s[c] = |gamma[c]|. g is the guide: with the rows
of a layer's map F (C x HW) of unit length, A = row softmax of F F^T, g = mean of the rows of A, averaged over the images and, as
a moving average, over the steps, then scaled to 0 .. 1 in each layer. No gradient flows through g.
Official repository: erichhhhho/CAP-Context-Aware-Pruning-for-Semantic-Segmentation (results only, no code).
Reads the channel: the scale of the batch normalisation; the guide from the map that goes into it, the convolution's output.
Deviations:
1. The paper says that a C x C affinity of a layer's map makes a guiding vector, used in the backward pass only, for an L1-like
   penalty on the scales of that layer; no equation is public. All of the above, from the unit length on, is our completion.
2. The map is read in front of the normalisation, so that a scale does not change its own guide.
3. The moving average keeps 0.9 a step; it starts with the first step.
4. The strength is that of Slimming, to which CAP comes down where g = 0 (as in a layer whose channels are all alike).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fgp.methods import Method
from fgp.options import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from fgp.train.hooks import Hook

METHOD = Method(
    label="CAP",
    kind="sparse-training",
    needs=frozenset({"weights"}),
    selection="global",
    tasks=frozenset({"segmentation"}),
    paper_name="CAP",
    approximate="the paper names a channel affinity that guides the L1 penalty on BN scales; its equations are ours",
    start="random",
)


def training(
    *,
    strength: Annotated[
        float | None, Field(ge=0, description="factor of the penalty; if left out by network, as Slimming's")
    ] = None,
    momentum: Annotated[float, Field(ge=0, le=1, description="share of the guide's moving average that a step keeps")] = 0.9,
) -> Hook:
    """Return the guided penalty.

    Raises:
        FgpError: at the start of the training, the network has no BatchNorm2d with a scale.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    from baselines.slimming import strength_for
    from fgp.errors import FgpError
    from fgp.train.hooks import Hook, Run

    class Guided(Hook):
        def begin(self, run: Run) -> None:
            modules = run.model.named_modules()
            self.norms = {name: m for name, m in modules if isinstance(m, nn.BatchNorm2d) and m.weight is not None}
            if not self.norms:
                raise FgpError(f"{type(run.model).__name__}: CAP needs BatchNorm2d layers with a scale, there is none")
            self.guides: dict[str, Tensor] = {}
            self.handles = [
                norm.register_forward_pre_hook(lambda _, args, name=name: self.read(name, args[0]))
                for name, norm in self.norms.items()
            ]

        @torch.no_grad()
        def read(self, name: str, features: Tensor) -> None:
            rows = F.normalize(features.flatten(2), dim=2)
            guide = (rows @ rows.mT).softmax(2).mean((0, 1))
            self.guides[name] = torch.lerp(guide, self.guides[name], momentum) if name in self.guides else guide

        def penalty(self, model: nn.Module) -> Tensor:
            total = 0
            for name, norm in self.norms.items():
                guide = scaled(self.guides[name]) if name in self.guides else 0
                total = total + ((1 - guide) * norm.weight.abs()).sum()
            return (strength_for(model) if strength is None else strength) * total

        def end(self) -> None:
            for handle in self.handles:
                handle.remove()

        def state_dict(self) -> dict:
            return {"guides": self.guides}

        def load_state_dict(self, state: dict) -> None:
            self.guides = {name: guide.to(self.norms[name].weight.device) for name, guide in state["guides"].items()}

    return Guided()


training = checked(training)


def scaled(guide: Tensor) -> Tensor:
    """Return `guide` (C,), positive, scaled to 0 .. 1; zeros where it is constant up to rounding."""
    low, high = guide.aminmax()
    return (guide - low) * (high - low > 1e-5 * high) / (high - low).clamp(min=1e-12)


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, Tensor]:
    """Return {layer: float32 (C_out,)}, |gamma| as in `slimming`, whose errors apply."""
    from baselines import slimming

    return slimming.score(model, batches, seed)
