"""Weights files: a network, dense or pruned, with its description, in one safetensors file."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from fgp.errors import FgpError
from fgp.files import atomic, parse_json
from fgp.models import Spec, build
from fgp.plans import Indices

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True)

    spec: dict[str, Any] | None
    plan: dict[str, Indices] | None
    groups: dict[str, Annotated[int, Field(ge=1)]]


def save(model: nn.Module, path: str | os.PathLike, *, plan: dict | None = None, **extra: object) -> None:
    """Write the weights of `model` and, as metadata `fgp`, the JSON of format, spec, plan, grouped convolutions and `extra`.

    Args:
        model: any network; one from `fgp.models.build` carries its spec and can be loaded by name.
        path: file to write, atomically.
        plan: `{layer name: kept indices}` of a pruned network; by default the one `model` was loaded with (`model.fgp_plan`).
        extra: JSON-ready entries for the metadata, for example provenance.

    Raises:
        FgpError: an `extra` entry has a reserved name.
    """
    import torch
    from safetensors.torch import save_file

    spec = getattr(model, "fgp_spec", None)
    convolutions = (torch.nn.modules.conv._ConvNd,)
    own = {
        "format": FORMAT,
        "spec": spec and spec.to_dict(),
        "plan": getattr(model, "fgp_plan", None) if plan is None else plan,
        "groups": {name: m.groups for name, m in model.named_modules() if isinstance(m, convolutions) and m.groups != 1},
    }
    if reserved := own.keys() & extra.keys():
        raise FgpError(f"metadata {', '.join(sorted(reserved))}: reserved for the weights file itself; choose another name")
    metadata = {"fgp": json.dumps({**own, **extra}, allow_nan=False)}
    # Cloning parts tensors that share memory, which safetensors refuses.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    with atomic(path) as aside:
        save_file(tensors, aside, metadata)


def load(path: str | os.PathLike, into: nn.Module | None = None) -> nn.Module:
    """Read a network written by `save`, on the CPU, in training mode as `fgp.models.build` gives it.

    Args:
        path: the weights file.
        into: needed for a network that `fgp.models.build` does not know: an unpruned instance of it. It is left alone; a copy on
            its device and in its mode is returned.

    Returns:
        The network, with `fgp_spec` (None for an unknown network) and `fgp_plan` (None if dense) attached.

    Raises:
        FgpError: not a weights file, damaged, or of another network.
    """
    import torch
    from safetensors.torch import load_file

    from fgp.models.reshape import reshape

    metadata = read_metadata(path)
    try:
        spec = None if metadata["spec"] is None else Spec.from_dict(metadata["spec"])
        if into is not None:
            model = copy.deepcopy(into)
        elif spec:
            with torch.device("meta"):
                model = build(spec.name, spec.num_classes, spec.width)
        else:
            raise FgpError("holds a network that fgp.models.build does not know; give an unpruned instance of it as `into`")
        # Cloning detaches the tensors from the file's memory map.
        tensors = {key: value.clone() for key, value in load_file(path).items()}
        reshape(model, tensors, metadata["groups"])
        _check_types(model, tensors)
    except FgpError as error:
        raise FgpError(f"{path}: {error}") from None
    model.load_state_dict(tensors, assign=into is None)
    model.fgp_spec, model.fgp_plan = spec, metadata["plan"]
    return model


def read_metadata(path: str | os.PathLike) -> dict:
    """Return the metadata of a weights file (format, spec, plan, groups and whatever `save` was given); loads no torch.

    Raises:
        FgpError: the file is missing, not safetensors, truncated, or not a weights file of this suite.
    """
    if not Path(path).is_file():
        raise FgpError(f"{path}: no such file; run the stage that writes it")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("fgp")
    except (SafetensorError, OSError) as error:
        raise FgpError(f"{path}: not a safetensors file, or truncated ({error}); write it again") from None
    try:
        metadata = parse_json(text or "{}")
    except ValueError as error:
        raise FgpError(
            f"{path}: not a weights file of fgp: metadata `fgp` are not JSON ({error}); write it with fgp.save"
        ) from None
    if not {"format", "spec", "plan", "groups"} <= metadata.keys():
        raise FgpError(f"{path}: safetensors, but not a weights file of fgp (no `fgp` metadata of one); write it with fgp.save")
    if metadata["format"] != FORMAT:
        raise FgpError(f"{path}: weights file of format {metadata['format']}, this version reads format {FORMAT}; update fgp")
    try:
        _Metadata.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FgpError(f"{path}: metadata {key}: {first['msg']}; write it again with fgp.save") from None
    return metadata


def _check_types(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Refuse types of numbers that the network cannot have; its floats may be of another precision, all of one."""
    import torch

    floats = {value.dtype for value in tensors.values()} & {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    for key, own in model.state_dict().items():
        legal = floats if own.is_floating_point() and len(floats) == 1 else {own.dtype}
        if key in tensors and tensors[key].dtype not in legal:
            raise FgpError(f"tensor {key} holds {tensors[key].dtype} where the network has {own.dtype}; write it again")
