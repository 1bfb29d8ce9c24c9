"""What a figure does about cells without a result: say so; refuse when nothing is left to draw."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from fgp.errors import FgpError
from fgp_workflow.summary import Cells, incomplete, seeds_of


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


def title(cells: Cells, config: Mapping, wanted: Mapping[str, Iterable[tuple[str, str, str]]]) -> str:
    """Return what the title says of missing cells, every seed counted; "" where none is missing.

    Args:
        cells: what there is.
        config: the experiment's configuration.
        wanted: the cells, (task, method, selection), of every task of the configuration.
    """
    missing = expected = 0
    for name, paths in wanted.items():
        seeds = set(seeds_of(config, name))
        for path in paths:
            missing += len(seeds - cells.values(*path, "after_percent").keys())
            expected += len(seeds)
    return incomplete(missing, expected)
