"""FGP (Feature-Gradient-Prune, arXiv 2411.12781) and the tools to prune convolutional networks with it.

    scores = fgp.score(model, batches)
    plan = fgp.select.match_macs(scores, model, example_input, budget=0.5)
    small = fgp.prune(model, plan, example_input)

Names are imported on first use, so that `import fgp` does not load torch.
"""

import importlib

_ATTRIBUTES = {
    "score": "fgp.scoring",
    "prune": "fgp.surgery",
    "prunable": "fgp.surgery",
    "save": "fgp.checkpoint",
    "load": "fgp.checkpoint",
    "FgpError": "fgp.errors",
}
_MODULES = ("cost", "data", "models", "select", "train")

__all__ = [*_ATTRIBUTES, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"fgp.{name}")
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    raise AttributeError(f"module 'fgp' has no attribute {name!r}")
