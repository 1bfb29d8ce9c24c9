"""Weights files: a network, dense or pruned, with its description, in one safetensors file."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgp import tensorfiles
from fgp.errors import FgpError
from fgp.files import Kind
from fgp.models import Spec, build
from fgp.plans import Indices

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
_KIND = Kind("a weights file", "the stage that writes it, or fgp.save")


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True)

    spec: dict[str, Any] | None
    plan: dict[str, Indices] | None
    groups: dict[str, Annotated[int, Field(ge=1)]]
    score_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


def save(model: nn.Module, path: str | os.PathLike, *, plan: dict | None = None, **extra: object) -> None:
    """Write the weights of `model` and, as metadata, format, spec, plan, grouped convolutions and `extra`.

    Args:
        model: any network; one from `fgp.models.build` carries its spec and can be loaded by name.
        path: file to write, atomically.
        plan: `{layer name: kept indices}` of a pruned network; by default the one `model` was loaded with (`model.fgp_plan`).
        extra: JSON-ready entries for the metadata, for example provenance.

    Raises:
        FgpError: an `extra` entry has a reserved name.
    """
    import torch

    spec = getattr(model, "fgp_spec", None)
    convolutions = (torch.nn.modules.conv._ConvNd,)
    own = {
        "format": FORMAT,
        "spec": spec and spec.to_dict(),
        "plan": getattr(model, "fgp_plan", None) if plan is None else plan,
        "groups": {name: m.groups for name, m in model.named_modules() if isinstance(m, convolutions) and m.groups != 1},
    }
    if reserved := (own.keys() | tensorfiles.RESERVED) & extra.keys():
        raise FgpError(f"metadata {', '.join(sorted(reserved))}: reserved for the weights file itself; choose another name")
    tensorfiles.write(path, model.state_dict(), {**own, **extra})


def load(path: str | os.PathLike, into: nn.Module | None = None) -> nn.Module:
    """Read a network written by `save`, on the CPU, in training mode as `fgp.models.build` gives it.

    Args:
        path: the weights file.
        into: needed for a network that `fgp.models.build` does not know: an unpruned instance of it. It is left alone; a copy on
            its device and in its mode is returned.

    Returns:
        The network, with `fgp_spec` (None for an unknown network) and `fgp_plan` (None if dense) attached.

    Raises:
        FgpError: not a weights file, damaged or changed since it was written, or of another network.
    """
    import torch

    from fgp.models.reshape import reshape

    mapped, metadata = tensorfiles.read(path, _KIND)
    _check_metadata(path, metadata)
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
        tensors = {key: value.clone() for key, value in mapped.items()}
        reshape(model, tensors, metadata["groups"])
        _check_types(model, tensors)
    except FgpError as error:
        raise FgpError(f"{path}: {error}") from None
    model.load_state_dict(tensors, assign=into is None)
    model.fgp_spec, model.fgp_plan = spec, metadata["plan"]
    return model


def read_metadata(path: str | os.PathLike) -> dict:
    """Return the metadata of a weights file (format, spec, plan, groups, digest and whatever `save` was given); loads no torch.

    Raises:
        FgpError: the file is missing, unreadable, changed since it was written, or not a weights file of this suite.
    """
    metadata = tensorfiles.metadata(path, _KIND)
    _check_metadata(path, metadata)
    return metadata


def _check_metadata(path: str | os.PathLike, metadata: dict) -> None:
    if not {"format", "spec", "plan", "groups"} <= metadata.keys():
        raise FgpError(f"{path}: another file of fgp, not {_KIND.name}; make one with {_KIND.maker}")
    if metadata["format"] != FORMAT:
        raise FgpError(f"{path}: weights file of format {metadata['format']}, this version reads format {FORMAT}; update fgp")
    try:
        _Metadata.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FgpError(
            f"{path}: metadata {key}: {first['msg']}: not a weights file of this version; make one with {_KIND.maker}"
        ) from None


def _check_types(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Refuse types of numbers that the network cannot have; its floats may be of another precision, all of one."""
    import torch

    floats = {value.dtype for value in tensors.values()} & {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    for key, own in model.state_dict().items():
        legal = floats if own.is_floating_point() and len(floats) == 1 else {own.dtype}
        if key in tensors and tensors[key].dtype not in legal:
            raise FgpError(f"tensor {key} holds {tensors[key].dtype} where the network has {own.dtype}; another network's file")
