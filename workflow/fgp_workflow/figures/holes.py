"""What a figure does about cells without a result: say so; refuse when nothing is left to draw."""

import sys
from collections.abc import Sequence

from fgp.errors import FgpError


class NothingToDrawError(FgpError):
    """None of a figure's cells is there."""


def report(figure: str, missing: Sequence[str], found: bool) -> tuple[str, ...]:
    """Name the missing cells on stderr and return them.

    Raises:
        NothingToDrawError: nothing was `found`.
    """
    if not found:
        raise NothingToDrawError(
            f"figure {figure}: cells.csv holds none of its cells: {', '.join(missing)}; run them and collect again"
        )
    if missing:
        print(f"figure {figure}: missing, left out: {', '.join(missing)}", file=sys.stderr)
    return tuple(missing)
