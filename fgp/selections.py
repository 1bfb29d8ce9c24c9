"""The names of selections, as they stand in paths and configurations, e.g. `cumulative-0.40`; free of torch.

`NAMES` lists the legal forms; `-x8` may stand behind each of them: every layer keeps a multiple of 8 channels.
`fgp.select.choose` does what a name says.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fgp.errors import FgpError

RULES = ("cumulative", "count", "global")
NAMES = (
    "cumulative-0.40", "count-0.40", "global-0.40", "macs-0.2368", "peak-0.30", "bottom-0.30", "rand-0.30",
    "peak-rand-0.30-of-0.50", "bottom-rand-0.30-of-0.50", "peak-rand-0.30-of-0.50-pool", "bottom-rand-0.30-of-0.50-pool",
    "cumulative-0.40-x8", "macs-0.2368-x8", "peak-rand-0.30-of-0.50-pool-x8",
)  # fmt: skip

_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN = re.compile(rf"(cumulative|count|global|macs|peak|bottom|rand)-({_NUMBER})")
_ROUNDED = re.compile(r"(.+)-x(0|[1-9]\d*)")
_POOLED = re.compile(rf"(peak-rand|bottom-rand)-({_NUMBER})-of-({_NUMBER})(-pool)?")


@dataclass(frozen=True)
class Selection:
    """A parsed name.

    Attributes:
        name: as written.
        kind: cumulative, count, global, macs, peak, bottom, rand, peak-rand or bottom-rand.
        value: k, the share, or for macs the budget (fraction of the dense MACs if at most 1, else MACs).
        of: the pool's share of the channels (peak-rand, bottom-rand).
        base: what `value` is a share of: "all" channels or the "pool" (peak-rand, bottom-rand).
        multiple: layers keep a multiple of this many channels.
    """

    name: str
    kind: str
    value: float
    of: float | None = None
    base: str = "all"
    multiple: int = 1


def parse(name: str) -> Selection:
    """Read a selection's name.

    Raises:
        FgpError: the name has none of the legal forms, or a number in it is out of range.
    """
    rounded = _ROUNDED.fullmatch(name)
    unrounded, multiple = (rounded[1], int(rounded[2])) if rounded else (name, 1)
    if rounded and multiple < 2:
        raise FgpError(f"selection {name!r}: a multiple is at least 2; leave -x{multiple} out or give a larger one")
    if match := _PLAIN.fullmatch(unrounded):
        selection = Selection(name, match[1], float(match[2]), multiple=multiple)
    elif match := _POOLED.fullmatch(unrounded):
        base = "pool" if match[4] else "all"
        selection = Selection(name, match[1], float(match[2]), float(match[3]), base, multiple)
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


CLOSE_ENOUGH = 0.005
"""Relative distance within which a number of MACs counts as met."""


def out_of_reach(selection: Selection, reach: Mapping, tied: bool) -> str | None:
    """Return why a selection macs-BUDGET cannot be met and what would help, None if it can or nothing is known of its multiple.

    Args:
        selection: what is asked for.
        reach: `dense_macs` and `least_macs` by way ("inside", "tied") and multiple, as `fgp budgets` writes them.
        tied: whether layers that reach a residual sum are pruned too.
    """
    dense, multiple = reach["dense_macs"], str(selection.multiple)
    own, other = (reach["least_macs"]["tied" if way else "inside"].get(multiple) for way in (tied, not tied))
    target = selection.value * dense if selection.value <= 1 else selection.value
    if own is None or own * (1 - CLOSE_ENOUGH) <= target <= dense:
        return None
    hint = "ask for more" if target < own else "ask for less"
    if not tied and other * (1 - CLOSE_ENOUGH) <= target < own:
        hint += ", or let it prune the layers that reach a residual sum too: --tied, in a configuration the task's `tied: true`"
    return f"{selection.name} cannot be met; pruning leaves {own / dense:.4f} to 1 of its {dense:,} MACs; {hint}"


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
