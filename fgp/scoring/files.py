"""Scores files: one safetensors file with a tensor a layer, and JSON about their making."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fgp.errors import FgpError
from fgp.files import atomic, parse_json

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_scores(path: str | os.PathLike, scores: Mapping[str, Tensor], **metadata: object) -> None:
    """Write `scores`, {layer: (C_out,)}, as float32, with the order of the layers and `metadata` (JSON-ready) as metadata `fgp`.

    Raises:
        FgpError: there are no scores, or those of a layer are not a vector of numbers finite in float32; nothing is written.
    """
    if not scores:
        raise FgpError(f"{path}: no scores to write")
    for name, values in scores.items():
        if problem := _problem(values):
            raise FgpError(f"{path}: scores of {name} {problem}; nothing was written")
    tensors = {name: values.detach().to("cpu", torch.float32).clone() for name, values in scores.items()}
    text = json.dumps({**metadata, "layers": list(scores)}, allow_nan=False)
    with atomic(path) as aside:
        save_file(tensors, aside, {"fgp": text})


def load_scores(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Return the scores, {layer: float32 (C_out,)} in the order in which they were saved, and the metadata.

    The metadata of `fgp score` are method, options, seconds (wall time of scoring), images (how many), seed, spec and provenance.

    Raises:
        FgpError: the file is missing, damaged, not a scores file, or holds NaN or infinity.
    """
    if not Path(path).is_file():
        raise FgpError(f"{path}: no such file; write it with `fgp score`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parse_json((file.metadata() or {}).get("fgp", "{}"))
            scores = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise FgpError(f"{path}: not a scores file, or truncated ({error}); write it again with `fgp score`") from None
    layers = metadata.get("layers")
    named = isinstance(layers, list) and all(isinstance(name, str) for name in layers)
    if not named or not layers or sorted(layers) != sorted(scores):
        raise FgpError(f"{path}: safetensors, but not a scores file; write it with `fgp score`")
    seconds = metadata.get("seconds")
    if seconds is not None and (type(seconds) not in (int, float) or seconds < 0):
        raise FgpError(f"{path}: metadata seconds: {seconds!r} is no time; write it again with `fgp score`")
    for name, values in scores.items():
        if problem := _problem(values):
            raise FgpError(f"{path}: scores of {name} {problem}; write it again with `fgp score`")
    return {name: scores[name].float() for name in layers}, metadata


def _problem(values: Tensor) -> str | None:
    if values.ndim != 1 or values.dtype not in _FLOATS or not len(values):
        return f"are {values.dtype} of shape {tuple(values.shape)}, not a vector of floats"
    return None if values.float().isfinite().all() else "hold NaN or infinity"
