"""The file metrics.json: the result of one cell."""

import os
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fgp.errors import FgpError
from fgp.files import Kind, read_sealed, write_sealed

_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, lt=1 << 63)]
_KIND = Kind("a metrics file", "the stage that writes it")
_Number = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Provenance(BaseModel):
    model_config = ConfigDict(extra="allow")

    command: str
    recipe: dict
    key: str | None
    digest: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str | None]
    hardware: dict
    threads: _Count
    finished: str


class Metrics(BaseModel):
    """The keys of metrics.json; further keys may only hold text (tags)."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, str]

    task: str
    dataset: str
    network: str
    width: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    seed: _Number
    method: str
    selection: str
    metric: Literal["top1", "miou"]
    before: _Percent | None = Field(description="percent before fine-tuning; null where there is no fine-tuning")
    after: _Percent
    macs: _Count
    params: _Count
    dense_macs: _Count
    dense_params: _Count
    kept: dict[str, _Count] = Field(description="channels left of every convolution")
    channels: dict[str, _Count] = Field(description="channels of every convolution of the dense network")
    score_seconds: _Seconds | None
    train_seconds: _Seconds
    epochs: _Number
    provenance: _Provenance

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kept.keys() != self.channels.keys():
            raise ValueError("kept: its layers are not those of channels")
        for layer, kept in self.kept.items():
            if kept > self.channels[layer]:
                raise ValueError(f"kept: {layer} keeps {kept} of {self.channels[layer]} channels")
        return self


def write_metrics(path: str | os.PathLike, **values: object) -> None:
    """Check the keys and values of `Metrics` and write them, sealed, to `path`, atomically.

    Raises:
        FgpError: a key is missing or a value illegal; the message names file and key. Nothing is written.
    """
    write_sealed(path, _checked(path, values))


def read_metrics(path: str | os.PathLike) -> dict:
    """Read and check a metrics file.

    Raises:
        FgpError: the file cannot be read or was changed since it was written, or a key is missing or illegal; the message names
            file and key.
    """
    return _checked(path, read_sealed(path, _KIND))


def _checked(path: str | os.PathLike, values: dict) -> dict:
    try:
        return Metrics.model_validate(values).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        where = f"{key}: " if key else ""
        message = "missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise FgpError(f"{path}: {where}{message}: not metrics of this version; make them with {_KIND.maker}") from None
