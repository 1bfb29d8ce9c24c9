"""The list of surviving mutants fits the code as it is."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from survivors import KILLED, LEAST_PERCENT, SURVIVORS, read

ROOT = Path(__file__).parents[2]


def module_of(function):
    """Return the file of a function named by module, class and name."""
    parts = function.split(".")
    places = (Path(*parts[:cut]) for cut in range(len(parts) - 1, 0, -1))
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next(file.as_posix() for file in files if (ROOT / file).exists())


def source_of(function):
    """Return the stripped lines of a function."""
    file = module_of(function)
    text = (ROOT / file).read_text()
    place, module = ast.parse(text), file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name in function.removeprefix(f"{module}.").split("."):
        place = next(node for node in place.body if getattr(node, "name", None) == name)
    return [line.strip() for line in text.splitlines()[place.lineno - 1 : place.end_lineno]]


@pytest.mark.parametrize("function", sorted({row["function"] for row in read(SURVIVORS)}))
def test_every_survivor_is_a_mutant_of_the_code_and_has_a_reason(function):
    lines = source_of(function)
    for row in read(SURVIVORS):
        if row["function"] == function:
            assert row["reason"], row
            assert set(row["before"].splitlines()) <= set(lines), f"run mutmut again (docs/mutation-testing.md): {row}"


def test_the_table_of_killed_mutants_the_list_and_the_page_belong_together():
    *modules, total = read(KILLED)
    assert float(total["percent"]) >= LEAST_PERCENT
    assert total["not checked"] == "0"
    alive = {row["module"]: int(row["survived"]) + int(row["no tests"]) for row in modules}
    assert alive.keys() >= {"fgp/select.py", "fgp/surgery.py", "fgp/scoring/engine.py", "baselines/fgp.py"}
    listed = Counter(module_of(row["function"]) for row in read(SURVIVORS))
    assert listed == Counter(alive)
    mutants = sum(int(total[status]) for status in ("killed", "timeout", "survived", "no tests"))
    page = (ROOT / "docs/mutation-testing.md").read_text()
    assert f"{mutants:,} mutants, **{total['percent']} % killed**, {listed.total()} survivors" in page
