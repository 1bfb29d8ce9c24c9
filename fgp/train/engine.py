"""How the arithmetic of a training is done; what is computed, the recipe, is the same in every case. Does not import torch."""

import argparse
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from fgp.errors import FgpError

if TYPE_CHECKING:
    import torch


class Engine(BaseModel):
    """Settings of the machinery; every field is a configuration key and, with hyphens, a command-line flag."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of activations and their gradients in training: bf16 is autocast over fp32 weights; auto: bf16 on a GPU "
        "that has it, else fp32. Scoring, evaluation and latency are always fp32",
    )
    launch: Literal["auto", "eager", "graph"] = Field(
        "auto",
        description="how a training step reaches a GPU: graph replays it as one CUDA graph; auto: graph where the device is a "
        "GPU and the method adds nothing to the step, else eager",
    )
    compile: bool = Field(
        False, description="compile the network by torch.compile: a minute or more for each shape of network, for long trainings"
    )

    def resolved(self, device: "torch.device", plain: bool) -> "Engine":
        """Return the settings without `auto`.

        Args:
            device: where the training runs.
            plain: whether every step does the same, with nothing added by a method.

        Raises:
            FgpError: a graph is asked for on another device than a GPU.
        """
        import torch

        cuda = device.type == "cuda"
        if self.launch == "graph" and not cuda:
            raise FgpError(f"launch graph: needs a GPU, the device is {device}; use auto or eager")
        half = cuda and torch.cuda.is_bf16_supported()
        graph = cuda and plain and self.launch != "eager"
        return Engine(
            precision={"auto": "bf16" if half else "fp32"}.get(self.precision, self.precision),
            launch="graph" if graph else "eager",
            compile=self.compile,
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add one flag for every field."""
        for name in ("precision", "launch"):
            field = cls.model_fields[name]
            choices = field.annotation.__args__
            parser.add_argument(f"--{name}", choices=choices, default=field.default, help=field.description)
        parser.add_argument("--compile", action="store_true", help=cls.model_fields["compile"].description)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Engine":
        """Build the settings from parsed flags."""
        return cls(**{name: getattr(args, name) for name in cls.model_fields})

    def flags(self) -> list[str]:
        """Return the command-line words that give these settings."""
        return ["--precision", self.precision, "--launch", self.launch, *["--compile"] * self.compile]
