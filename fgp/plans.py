"""The file plan.json: which channels stay, and what the network then costs."""

import itertools
import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fgp.errors import FgpError
from fgp.files import Kind, read_sealed, write_sealed

if TYPE_CHECKING:
    from fgp.surgery import Structure


def _increasing(indices: list[int]) -> list[int]:
    if any(a >= b for a, b in itertools.pairwise(indices)):
        raise ValueError("indices must be increasing, without repetition")
    return indices


Indices = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(min_length=1), AfterValidator(_increasing)]
_Count = Annotated[int, Field(ge=1, lt=1 << 63)]
_KIND = Kind("a plan file", "`fgp plan`")


class PlanFile(BaseModel):
    """The keys of plan.json.

    Attributes:
        plan: {layer: kept indices}, one entry a group of coupled layers.
        selection: name of the selection (see `fgp.selections`).
        spec: description of the network, or None for a network that `fgp.models.build` does not know.
        macs, dense_macs: of one image, after and before.
        params, dense_params: parameters, after and before.
        kept, channels: output channels of every convolution, after and before.
        tied: whether groups that reach a residual sum were pruned too.
        provenance: what made the plan.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    plan: dict[str, Indices]
    selection: str
    spec: dict[str, Any] | None
    macs: _Count
    dense_macs: _Count
    params: _Count
    dense_params: _Count
    kept: dict[str, _Count]
    channels: dict[str, _Count]
    tied: bool
    provenance: dict[str, Any]


def facts(structure: "Structure", plan: dict[str, list[int]], tied: bool) -> dict[str, object]:
    """Return the entries of `PlanFile` that follow from a plan and the network's structure."""
    return {
        "plan": plan,
        "macs": structure.macs(plan),
        "dense_macs": structure.macs(),
        "params": structure.params(plan),
        "dense_params": structure.params(),
        "kept": structure.kept(plan),
        "channels": structure.kept(),
        "tied": tied,
    }


def save_plan(path: str | os.PathLike, **values: object) -> None:
    """Check the keys and values of `PlanFile` and write them, sealed, to `path`, atomically.

    Raises:
        FgpError: a key is missing, unknown or illegal; the message names file and key. Nothing is written.
    """
    write_sealed(path, _checked(path, values).model_dump())


def load_plan(path: str | os.PathLike) -> PlanFile:
    """Read and check a plan file.

    Raises:
        FgpError: the file cannot be read or was changed since it was written, or a key is missing, unknown or illegal; the
            message names file and key.
    """
    return _checked(path, read_sealed(path, _KIND))


def _checked(path: str | os.PathLike, values: dict) -> PlanFile:
    try:
        return PlanFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FgpError(f"{path}: key {key}: {first['msg']}: not a plan of this version; make one with {_KIND.maker}") from None
