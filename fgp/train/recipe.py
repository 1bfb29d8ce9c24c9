"""How a network is trained: every setting of SGD, the learning rate and the augmentation. Does not import torch."""

import argparse
import math
import types
from typing import Annotated, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fgp.errors import FgpError

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Pixels = Annotated[int, Field(ge=1)]
_FOR_TASK = {
    "crop_padding": "classification",
    "scale_range": "segmentation",
    "crop_size": "segmentation",
    "class_weights": "segmentation",
}


class Recipe(BaseModel):
    """One training recipe; every field is a configuration key and, with hyphens, a command-line flag."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=0, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images an SGD step")
    lr: _Positive = Field(description="learning rate at the start (after the warm-up)")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="L2 penalty of SGD, on every parameter")
    nesterov: bool = Field(False, description="Nesterov momentum")
    schedule: Literal["constant", "multistep", "poly", "cosine"] = Field(
        "constant",
        description="learning rate over time: multistep (once an epoch: times gamma at each milestone), poly (each step: "
        "times (1 - t)^power), cosine (each step: half a cosine down to 0)",
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="multistep: epochs, counted from 0, at which the rate falls"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: factor at each milestone")
    power: _Positive = Field(0.9, description="poly: exponent")
    warmup_epochs: int = Field(0, ge=0, description="epochs in which the rate rises linearly to lr; part of epochs")
    crop_padding: int = Field(0, ge=0, description="classification: random crop after padding so many black pixels on every side")
    flip: bool = Field(False, description="mirror every second image, at random")
    scale_range: tuple[_Positive, _Positive] | None = Field(
        None, description="segmentation: random resize by a factor from this range [lowest, highest]"
    )
    crop_size: tuple[_Pixels, _Pixels] | None = Field(
        None, description="segmentation: random crop to [height, width] in pixels; default: the images' own size"
    )
    aux_weight: float = Field(
        0.4, ge=0, allow_inf_nan=False, description="weight of the auxiliary head's loss, where a network has one"
    )
    class_weights: Literal["none", "median_frequency"] = Field(
        "none", description="segmentation: weight of a class in the loss; median_frequency: rarer classes count more"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} is not strictly increasing")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("milestones: schedule multistep needs at least one")
        if self.schedule != "multistep" and self.milestones:
            raise ValueError(f"milestones: schedule {self.schedule} takes none; use schedule multistep")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} is not below epochs ({self.epochs})")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0")
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range: {list(self.scale_range)} is not [lowest, highest]")
        return self

    def check_task(self, task: str) -> None:
        """Check that every setting has a meaning for `task` ("classification" or "segmentation").

        Raises:
            FgpError: a setting of the other task is on; the message names the key.
        """
        for key, meant_for in _FOR_TASK.items():
            if meant_for != task and getattr(self, key) != type(self).model_fields[key].default:
                raise FgpError(f"recipe: {key} is for {meant_for}, and the data set's task is {task}; leave it out")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of SGD step `step` (from 0) where an epoch has `steps_per_epoch` steps."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / (self.epochs * steps_per_epoch - warmup)
        if self.schedule == "multistep":
            return self.lr * self.gamma ** sum(step // steps_per_epoch >= milestone for milestone in self.milestones)
        if self.schedule == "poly":
            return self.lr * (1 - done) ** self.power
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr

    def stretched(self, factor: float) -> "Recipe":
        """Return this recipe with `factor` times the epochs, milestones moved along, warm-up as it is."""
        return self.model_copy(
            update={
                "epochs": round(self.epochs * factor),
                "milestones": tuple(round(milestone * factor) for milestone in self.milestones),
            }
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add one flag for every field."""
        group = parser.add_argument_group("recipe")
        for name, field in cls.model_fields.items():
            options = _argparse_options(field.annotation)
            text = field.description
            if field.is_required():
                options["required"] = True
            else:
                options["default"] = field.default
                if field.default not in ((), None):
                    text += f" (default: {field.default})"
            group.add_argument(_flag(name), dest=name, help=text, **options)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Recipe":
        """Build the recipe from parsed flags.

        Raises:
            FgpError: a value is illegal; the message names the flag.
        """
        try:
            return cls(**{name: getattr(args, name) for name in cls.model_fields})
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{_flag(str(first['loc'][0]))}: " if first["loc"] else ""
            raise FgpError(f"recipe: {where}{first['msg'].removeprefix('Value error, ')}") from None

    def flags(self) -> list[str]:
        """Return the command-line words that give this recipe, all fields spelled out: `from_args` of them is `self`."""
        words = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, bool):
                words.append(_flag(name) if value else _flag(name).replace("--", "--no-", 1))
            elif isinstance(value, tuple) and value:
                words += [_flag(name), *map(str, value)]
            elif value is not None and value != ():
                words += [_flag(name), str(value)]
        return words


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _argparse_options(annotation: object) -> dict:
    """Return the options of `add_argument` for a field of this type."""
    if get_origin(annotation) is types.UnionType:
        annotation = next(member for member in get_args(annotation) if member is not type(None))
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if get_origin(annotation) is tuple:
        first, second = get_args(annotation)
        return {"type": _plain(first), "nargs": "+" if second is Ellipsis else 2}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": _plain(annotation)}


def _plain(annotation: object) -> type:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
