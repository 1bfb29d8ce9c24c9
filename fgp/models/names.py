"""Which networks exist, and the description that travels with a network's weights; loads no torch."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from numbers import Real
from typing import Self

from fgp.errors import FgpError


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is built.

    Attributes:
        task: "classification" or "segmentation".
        module: module of `fgp.models` that builds it.
        scalable: whether a width other than 1 is possible.
        function: function of the module that builds it.
        replaces: for an architecture that is trained in place of a dense network, that network.
    """

    task: str
    module: str
    scalable: bool = True
    function: str = "build"
    replaces: str | None = None


NETWORKS = {
    "vgg16": Network("classification", "vgg"),
    "resnet50": Network("classification", "resnet"),
    "segnet": Network("segmentation", "segnet"),
    "deeplabv3": Network("segmentation", "deeplab"),
    "tv_deeplabv3": Network("segmentation", "torchvision_deeplab", scalable=False),
    "smp_deeplabv3": Network("segmentation", "smp_deeplab", scalable=False),
    "slimconv_vgg16": Network("classification", "slimconv", function="build_vgg16", replaces="vgg16"),
    "slimconv_resnet50": Network("classification", "slimconv", function="build_resnet50", replaces="resnet50"),
}
NAMES = tuple(NETWORKS)
MOST_CLASSES, MOST_WIDTH = 1_000_000, 64


@dataclass(frozen=True)
class Spec:
    """What has to be known to build a dense network: `fgp.models.build(name, num_classes, width)`.

    Raises:
        FgpError: a field has a value that no network has.
    """

    name: str
    num_classes: int
    width: float
    task: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in NETWORKS:
            close = difflib.get_close_matches(str(self.name), NAMES, n=3) or NAMES
            raise FgpError(f"network {self.name!r} is not known; use {' or '.join(close)}")
        classes_are_number = isinstance(self.num_classes, int) and not isinstance(self.num_classes, bool)
        if not classes_are_number or not 1 <= self.num_classes <= MOST_CLASSES:
            raise FgpError(f"num_classes {self.num_classes!r}: give a whole number of at least 1 and at most {MOST_CLASSES}")
        width_is_number = isinstance(self.width, Real) and not isinstance(self.width, bool)
        if not width_is_number or not 0 < self.width <= MOST_WIDTH:
            raise FgpError(f"width {self.width!r}: give a number above 0 and at most {MOST_WIDTH}, for example 0.25")
        network = NETWORKS[self.name]
        if self.width != 1 and not network.scalable:
            raise FgpError(f"width {self.width}: {self.name} has a fixed width; use 1 or another network")
        if self.task != network.task:
            raise FgpError(f"task {self.task!r}: {self.name} is a network for {network.task}")

    def to_dict(self) -> dict:
        """Return the fields as a JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> Self:
        """Build from `to_dict`'s output.

        Raises:
            FgpError: fields missing, unknown or out of range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != names:
            raise FgpError(f"network spec {fields!r}: expected the keys {', '.join(sorted(names))}")
        return cls(**fields)


def make_spec(name: str, num_classes: int, width: float) -> Spec:
    """Return the `Spec` of a network, its task looked up by name."""
    return Spec(name, num_classes, width, NETWORKS[name].task if name in NETWORKS else "")


def scale(channels: int, width: float) -> int:
    """Return `channels * width` rounded to the nearest integer, halves up, at least 1."""
    return max(1, math.floor(channels * width + 0.5))
