"""The variants of FGP's importance, and which of them go together. Loads no torch."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fgp import options


class Variant(BaseModel):
    """One choice per keyword of `fgp.score`; the defaults are the canonical importance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: Literal["conv", "postrelu"] = Field(
        "conv", description="where the feature map is read: the convolution's output, or behind normalisation and ReLU"
    )
    form: Literal["canonical", "gapfirst", "elementwise", "abs"] = Field(
        "canonical", description="how feature map and gradient are combined; table in `fgp/scoring/__init__.py`"
    )
    normalise: Literal["minmax_u8", "jointmax"] | None = Field(
        None,
        description="scaling of the heat maps: to 256 grey levels each, or by the layer's largest value; if left out they stay",
    )
    target: Literal["logit", "softmax"] = Field("logit", description="what the gradient is of")
    classes: Literal["true", "predicted", "correct", "all"] = Field("true", description="the classes that count in an image")
    evidence: Literal["both", "feature", "gradient"] = Field("both", description="one factor of the product alone, or both")

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Self:
        """Build from keyword and value.

        Raises:
            FgpError: a keyword or value does not exist, or two of them contradict each other.
        """
        return options.validate(cls, given, "FGP")

    @property
    def needs_maps(self) -> bool:
        """Whether the heat map itself is needed, not only the sums of the feature map."""
        return self.form == "elementwise" or self.normalise is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if reason := self._contradiction():
            raise ValueError(reason)
        return self

    def _contradiction(self) -> str | None:
        if self.form == "gapfirst" and self.normalise:
            return f"normalise={self.normalise!r}: form='gapfirst' sums the map before the ReLU and leaves nothing to normalise"
        if self.evidence == "feature" and self.form == "elementwise":
            return "form='elementwise': evidence='feature' uses no gradient that could be left unpooled; use form='canonical'"
        if self.evidence == "feature" and self.target == "softmax":
            return "target='softmax': evidence='feature' uses no gradient of any target; leave target out"
        if self.evidence == "gradient" and self.form == "gapfirst":
            return "form='gapfirst': evidence='gradient' has no feature map to sum; use form='canonical', it is the same"
        if self.evidence == "gradient" and self.form != "elementwise" and self.normalise == "minmax_u8":
            return "normalise='minmax_u8': evidence='gradient' makes constant maps, all scaled to 0; use form='elementwise'"
        return None
