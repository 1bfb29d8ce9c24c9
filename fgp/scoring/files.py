"""Scores files: one safetensors file with a tensor a layer, and JSON about their making."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from fgp import tensorfiles
from fgp.errors import FgpError
from fgp.files import Kind

_KIND = Kind("a scores file", "`fgp score`")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_scores(path: str | os.PathLike, scores: Mapping[str, Tensor], **metadata: object) -> None:
    """Write `scores`, {layer: (C_out,)}, as float32, with the order of the layers and `metadata` (JSON-ready) as metadata.

    Raises:
        FgpError: there are no scores, or those of a layer are not a vector of numbers finite in float32; nothing is written.
    """
    if not scores:
        raise FgpError(f"{path}: no scores to write")
    for name, values in scores.items():
        if problem := _problem(values):
            raise FgpError(f"{path}: scores of {name} {problem}; nothing was written")
    tensors = {name: values.to(torch.float32) for name, values in scores.items()}
    tensorfiles.write(path, tensors, {**metadata, "layers": list(scores)})


def load_scores(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Return the scores, {layer: float32 (C_out,)} in the order in which they were saved, and the metadata.

    The metadata of `fgp score` are method, options, seconds (wall time of scoring), images (how many), seed, spec, provenance
    and digest.

    Raises:
        FgpError: the file is missing, damaged or changed since it was written, not a scores file, or holds NaN or infinity.
    """
    scores, metadata = tensorfiles.read(path, _KIND)
    layers = metadata.get("layers")
    named = isinstance(layers, list) and all(isinstance(name, str) for name in layers)
    if not named or not layers or sorted(layers) != sorted(scores):
        raise FgpError(f"{path}: another file of fgp, not {_KIND.name}; make one with {_KIND.maker}")
    seconds = metadata.get("seconds")
    if seconds is not None and (type(seconds) not in (int, float) or seconds < 0):
        raise FgpError(f"{path}: metadata seconds: {seconds!r} is no time; make the file again with {_KIND.maker}")
    for name, values in scores.items():
        if problem := _problem(values):
            raise FgpError(f"{path}: scores of {name} {problem}; make the file again with {_KIND.maker}")
    return {name: scores[name].float() for name in layers}, metadata


def _problem(values: Tensor) -> str | None:
    if values.ndim != 1 or values.dtype not in _FLOATS or not len(values):
        return f"are {values.dtype} of shape {tuple(values.shape)}, not a vector of floats"
    return None if values.float().isfinite().all() else "hold NaN or infinity"
