"""The list of surviving mutants fits the code as it is."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from survivors import KILLED, LEAST_PERCENT, SURVIVORS, read

ROOT = Path(__file__).parents[2]


def source_of(function):
    """Return the stripped lines of a function named by module, class and name."""
    parts = function.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ROOT.joinpath(*parts[:cut])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.exists():
                place = ast.parse(path.read_text())
                for name in parts[cut:]:
                    place = next(node for node in place.body if getattr(node, "name", None) == name)
                return [line.strip() for line in path.read_text().splitlines()[place.lineno - 1 : place.end_lineno]]
    raise LookupError(function)


@pytest.mark.parametrize("function", sorted({row["function"] for row in read(SURVIVORS)}))
def test_every_survivor_is_a_mutant_of_the_code_and_has_a_reason(function):
    lines = source_of(function)
    for row in read(SURVIVORS):
        if row["function"] == function:
            assert row["reason"], row
            assert set(row["before"].splitlines()) <= set(lines), f"run mutmut again (docs/mutation-testing.md): {row}"


def test_the_table_of_killed_mutants_and_the_list_belong_together():
    *modules, total = read(KILLED)
    assert float(total["percent"]) >= LEAST_PERCENT
    assert total["not checked"] == "0"
    assert {row["module"] for row in modules} >= {"fgp/select.py", "fgp/surgery.py", "fgp/scoring/engine.py", "baselines/fgp.py"}
    alive = sum((Counter({row["module"]: int(row["survived"]) + int(row["no tests"])}) for row in modules), Counter())
    listed = Counter(row["function"] for row in read(SURVIVORS))
    assert sum(alive.values()) == int(total["survived"]) + int(total["no tests"])
    assert len(listed) <= sum(listed.values()) <= sum(alive.values())
