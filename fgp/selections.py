"""The names of selections, as they stand in paths and configurations, e.g. `cumulative-0.40`; free of torch.

`NAMES` lists the legal forms.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fgp.errors import FgpError

if TYPE_CHECKING:
    from torch import Tensor

    from fgp.surgery import Structure

RULES = ("cumulative", "count", "global")
NAMES = (
    "cumulative-0.40", "count-0.40", "global-0.40", "macs-0.2368", "peak-0.30", "bottom-0.30", "rand-0.30",
    "peak-rand-0.30-of-0.50", "bottom-rand-0.30-of-0.50", "peak-rand-0.30-of-0.50-pool", "bottom-rand-0.30-of-0.50-pool",
)  # fmt: skip

_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN = re.compile(rf"(cumulative|count|global|macs|peak|bottom|rand)-({_NUMBER})")
_POOLED = re.compile(rf"(peak-rand|bottom-rand)-({_NUMBER})-of-({_NUMBER})(-pool)?")


@dataclass(frozen=True)
class Selection:
    """A parsed name; calling it chooses channels.

    Attributes:
        name: as written.
        kind: cumulative, count, global, macs, peak, bottom, rand, peak-rand or bottom-rand.
        value: k, the share, or for macs the budget (fraction of the dense MACs if at most 1, else MACs).
        of: the pool's share of the channels (peak-rand, bottom-rand).
        base: what `value` is a share of: "all" channels or the "pool" (peak-rand, bottom-rand).
    """

    name: str
    kind: str
    value: float
    of: float | None = None
    base: str = "all"

    def __call__(
        self, scores: Mapping[str, "Tensor"], structure: "Structure", *, seed: int = 0, rule: str = "cumulative"
    ) -> dict[str, list[int]]:
        """Choose channels.

        Args:
            scores: {layer: tensor (C_out,)}, of single convolutions; they are gathered by group here.
            structure: the network's.
            seed: for the random selections.
            rule: how macs chooses, one of `RULES`.

        Returns:
            The plan {group leader: sorted kept indices}.

        Raises:
            FgpError: see the rules in `fgp.select`.
        """
        from fgp import select

        if self.kind == "macs":
            return select.match_budget(scores, structure, self.value, rule)
        gathered = structure.gather(scores)
        if self.kind == "rand":
            return select.rand(gathered, self.value, seed)
        if self.of is not None:
            pick = select.peak_rand if self.kind == "peak-rand" else select.bottom_rand
            return pick(gathered, self.value, of=self.of, seed=seed, base=self.base)
        plain = {
            "cumulative": select.cumulative, "count": select.count, "global": select.global_threshold,
            "peak": select.peak, "bottom": select.bottom,
        }  # fmt: skip
        return plain[self.kind](gathered, self.value)


def parse(name: str) -> Selection:
    """Read a selection's name.

    Raises:
        FgpError: the name has none of the legal forms, or a number in it is out of range.
    """
    if match := _PLAIN.fullmatch(name):
        selection = Selection(name, match[1], float(match[2]))
    elif match := _POOLED.fullmatch(name):
        selection = Selection(name, match[1], float(match[2]), float(match[3]), "pool" if match[4] else "all")
    else:
        close = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.4) or NAMES
        raise FgpError(f"selection {name!r}: unknown; legal forms are like {', '.join(close)}")
    if selection.kind != "macs":
        check_share(selection.value, f"selection {name!r}")
    elif selection.value <= 0:
        raise FgpError(f"selection {name!r}: the budget must be above 0")
    if selection.of is not None:
        check_pool(selection.value, selection.of, selection.base, f"selection {name!r}")
    return selection


def check_share(share: float, what: str) -> None:
    """Refuse a share outside (0, 1] (FgpError that begins with `what`)."""
    if not 0 < share <= 1:
        raise FgpError(f"{what}: {share} is out of range, give a number above 0 and at most 1")


def check_pool(share: float, of: float, base: str, what: str) -> None:
    """Refuse a random draw of `share` that does not fit its pool (FgpError that begins with `what`)."""
    check_share(share, what)
    check_share(of, what)
    if base not in ("all", "pool"):
        raise FgpError(f"{what}: base {base!r} is neither 'all' nor 'pool'")
    if base == "all" and share > of:
        raise FgpError(f"{what}: {share} of all channels do not fit into a pool of {of}")


def portion(share: float, channels: int) -> int:
    """Return ceil(share * channels), at least 1, safe against binary rounding (0.07 of 100 is 7)."""
    return max(1, math.ceil(round(share * channels, 9)))
