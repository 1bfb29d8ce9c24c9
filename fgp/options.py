"""Options of methods: text from a command line or numbers from Python. Loads no torch."""

import math
from collections.abc import Sequence

from fgp.errors import FgpError


def number(name: str, value: object, kind: type = float, least: float = -math.inf, most: float = math.inf) -> float | int:
    """Return `value`, a number or its text, as `kind` (float or int).

    Raises:
        FgpError: it is no such number, not finite, or outside [least, most]; the message names the option.
    """
    wanted = "a whole number" if kind is int else "a number"
    limits = [f"of at least {least:g}"] * (least > -math.inf) + [f"of at most {most:g}"] * (most < math.inf)
    try:
        read = kind(value)
        fits = math.isfinite(read) and least <= read <= most and (kind is float or float(value) == read)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise FgpError(f"option {name}: {value!r}; give {' '.join([wanted, *limits])}")
    return read


def parse(pairs: Sequence[str], flag: str) -> dict[str, str]:
    """Read KEY=VALUE pairs, given by the command line's `flag`.

    Raises:
        FgpError: a pair has no equals sign.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise FgpError(f"{flag} {pair}: expected KEY=VALUE")
        options[key] = value
    return options
