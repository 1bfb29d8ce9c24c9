"""Prepared data: one safetensors file a data set, written by `prepare`, read by `load`.

Names are imported on first use: `read_header` and `prepare` do not load torch, `load`, `batches` and `subset` do.
"""

import importlib

_ATTRIBUTES = {
    "prepare": "fgp.data.preparing",
    "SOURCES": "fgp.data.preparing",
    "Header": "fgp.data.header",
    "read_header": "fgp.data.header",
    "Dataset": "fgp.data.dataset",
    "Split": "fgp.data.dataset",
    "load": "fgp.data.dataset",
    "batches": "fgp.data.dataset",
    "subset": "fgp.data.dataset",
}

__all__ = list(_ATTRIBUTES)


def __getattr__(name: str) -> object:
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    raise AttributeError(f"module 'fgp.data' has no attribute {name!r}")
