"""A pytest plugin for mutmut: the order in which a mutant meets the tests of its function, and when it has met enough of them.

mutmut hands the tests over in no order. Here those that killed another mutant of the same function come first, then the fastest,
until their seconds are spent: a function such as the tracing of a network is run by hundreds of slow tests, which would hold
every survivor for minutes.
"""

import json
import os
from collections import Counter
from pathlib import Path

SECONDS = float(os.environ.get("MUTATION_SECONDS", "10"))


def _killers() -> Path:
    """Return the file with the tests that killed a mutant of this function, a line a mutant."""
    return Path("killers", os.environ.get("MUTANT_UNDER_TEST", "").partition("__mutmut_")[0])


def pytest_configure(config):
    """Order and cut the tests that were asked for one by one; other runs of mutmut name whole files."""
    durations = Path("mutmut-stats.json")
    if not durations.exists() or not all("::" in name for name in config.args):
        return
    seconds = json.loads(durations.read_text())["duration_by_test"]
    killed = Counter(_killers().read_text().splitlines() if _killers().is_file() else ())
    chosen, spent = [], 0.0
    for name in sorted(config.args, key=lambda name: (-killed[name], seconds.get(name, 0.0), name)):
        spent += seconds.get(name, 0.0)
        if chosen and spent > SECONDS:
            break
        chosen.append(name)
    config.args[:] = chosen


def pytest_runtest_logreport(report):
    """Note the test that kills a mutant."""
    if report.failed and "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", ""):
        _killers().parent.mkdir(exist_ok=True)
        with open(_killers(), "a") as file:
            file.write(f"{report.nodeid}\n")
