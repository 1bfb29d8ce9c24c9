"""The plan that a dry run shows: for each rule how many jobs would run, and why, in a few words."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

INPUTS_OF_OTHERS = "inputs are made first"
REASONS = {
    "Forced execution": "forced",
    "Missing output files": "missing output",
    "Incomplete output files": "incomplete output",
    "Updated input files": "newer inputs",
    "Input files updated by another job": INPUTS_OF_OTHERS,
    "Set of input files has changed": "other inputs",
    "Params have changed": "params changed",
    "Code has changed": "code changed",
    "Software environment definition has changed": "environment changed",
    "Rules with ": "always runs",
}
"""{how a reason of Snakemake's begins: short for it}."""


class Plan:
    """The jobs of a dry run, counted by rule and reason."""

    def __init__(self) -> None:
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, rule: str, reason: str) -> None:
        """Count a job. That its inputs are made first counts only if nothing else is the matter with it."""
        found = [short for start, short in REASONS.items() if re.search(f"(^|; ){start}", reason)]
        self._reasons[rule].update([short for short in found if short != INPUTS_OF_OTHERS] or found or ["other reasons"])

    def table(self, counts: Mapping[str, int], *, with_reasons: bool) -> Iterator[str]:
        """Yield a line for each rule.

        Args:
            counts: {rule: number of its jobs}, in the order to show.
            with_reasons: say why; a reason that is the only one of a rule stands without a number.
        """
        width = max(len(str(number)) for number in counts.values())
        name_width = max(map(len, counts))
        for rule, number in counts.items():
            found = self._reasons[rule].most_common() if with_reasons else []
            why = found[0][0] if len(found) == 1 else ", ".join(f"{reason}: {jobs}" for reason, jobs in found)
            yield f"    {number:{width}}  {rule:{name_width}}  {why}".rstrip()
