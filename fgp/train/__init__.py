"""Training and fine-tuning: `Recipe` says how, `fit` does it.

Names are imported on first use, so that `fgp.train.Recipe` does not load torch.
"""

import importlib

_ATTRIBUTES = {"Recipe": "fgp.train.recipe", "fit": "fgp.train.loop", "History": "fgp.train.loop"}

__all__ = ["History", "Recipe", "fit"]


def __getattr__(name: str) -> object:
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    raise AttributeError(f"module 'fgp.train' has no attribute {name!r}")
