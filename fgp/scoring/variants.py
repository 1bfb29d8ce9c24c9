"""The variants of FGP's importance, and which of them go together. Loads no torch."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fgp.errors import FgpError

CHOICES = {
    "feature": ("conv", "postrelu"),
    "form": ("canonical", "gapfirst", "elementwise", "abs"),
    "normalise": (None, "minmax_u8", "jointmax"),
    "target": ("logit", "softmax"),
    "classes": ("true", "predicted", "correct", "all"),
    "evidence": ("both", "feature", "gradient"),
}


@dataclass(frozen=True)
class Variant:
    """One choice per keyword of `fgp.score`; the defaults are the canonical importance.

    Raises:
        FgpError: a value does not exist, or two of them contradict each other.
    """

    feature: str = "conv"
    form: str = "canonical"
    normalise: str | None = None
    target: str = "logit"
    classes: str = "true"
    evidence: str = "both"

    def __post_init__(self) -> None:
        for key, legal in CHOICES.items():
            value = getattr(self, key)
            if value not in legal:
                raise FgpError(f"{key}={value!r}: no such variant; {_closest(str(value), [str(choice) for choice in legal])}")
        if reason := self._contradiction():
            raise FgpError(reason)

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """Build from keyword and value.

        Raises:
            FgpError: a keyword or value does not exist, or two of them contradict each other.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in options:
            if key not in names:
                raise FgpError(f"option {key!r}: FGP has no such option; {_closest(key, names)}")
        return cls(**options)

    @property
    def needs_maps(self) -> bool:
        """Whether the heat map itself is needed, not only the sums of the feature map."""
        return self.form == "elementwise" or self.normalise is not None

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


def _closest(value: str, legal: list[str]) -> str:
    close = difflib.get_close_matches(value, legal, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}? " * bool(close) + f"legal: {', '.join(legal)}"
