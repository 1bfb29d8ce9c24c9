"""What `mutmut run` found: the share of killed mutants by module, and the survivors with the reasons why they live.

`make mutation` runs it. It prints the table, writes it to `killed.csv` and brings `survivors.csv` up to date: mutants that live
now are added without a reason, those that are killed now are taken away. Both are the report of that run; no test of the suite
reads them. Its exit status is 1 while a reason is missing, a mutant was not tried, or fewer than 85 % are killed.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
SURVIVORS, KILLED = HERE / "survivors.csv", HERE / "killed.csv"
LEAST_PERCENT = 85
FIELDS = ("function", "before", "after", "reason")
_STATUS = ("killed", "timeout", "survived", "no tests", "not checked")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, fields: tuple[str, ...], rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _mutants() -> dict[str, list[tuple[str, str]]]:
    """Return module -> (mutant, status) of the last run of mutmut in this folder."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.stats import status_by_exit_code

    found = {}
    for meta in sorted(Path("mutants").rglob("*.py.meta")):
        data = SourceFileMutationData(path=meta.relative_to("mutants").with_suffix(""))
        data.load()
        if data.exit_code_by_key:
            found[str(data.path)] = [(name, status_by_exit_code[code]) for name, code in data.exit_code_by_key.items()]
    return found


def _survivor(mutant: str, path: str) -> tuple[str, str, str]:
    """Return the function and the lines before and after the mutation."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.utils.format_utils import get_module_from_key, orig_function_and_class_names_from_key

    name, class_name = orig_function_and_class_names_from_key(mutant)
    lines = get_diff_for_mutant(mutant, path=path).splitlines()[2:]
    before, after = ("\n".join(line[1:].strip() for line in lines if line[:1] == sign) for sign in "-+")
    return ".".join(part for part in (get_module_from_key(mutant), class_name, name) if part), before, after


def main() -> int:
    """Write both files, print the table and return the exit status."""
    mutants = _mutants()
    counts = {path: Counter(status for _, status in found) for path, found in mutants.items()}
    counts["all"] = sum(counts.values(), Counter())
    table = []
    for path, count in counts.items():
        dead = count["killed"] + count["timeout"]
        table.append(
            {"module": path, **{status: count[status] for status in _STATUS}, "percent": f"{100 * dead / count.total():.1f}"}
        )
        print(f"{path:32}{count.total():6} mutants{count['survived']:5} survived{table[-1]['percent']:>7} %")
    _write(KILLED, ("module", *_STATUS, "percent"), table)

    reasons = {tuple(row[field] for field in FIELDS[:3]): row["reason"] for row in read(SURVIVORS)}
    alive = [
        _survivor(name, path) for path, found in mutants.items() for name, status in found if status not in ("killed", "timeout")
    ]
    _write(SURVIVORS, FIELDS, [dict(zip(FIELDS, (*key, reasons.get(key, "")), strict=True)) for key in alive])
    unexplained = sum(not reasons.get(key) for key in alive)
    print(f"{unexplained} of {len(alive)} survivors without a reason in {SURVIVORS.name}")
    print(f"{counts['all'].total():,} mutants, {len(alive)} survivors: bring docs/mutation-testing.md up to date")
    untried = counts["all"]["not checked"]
    return int(bool(unexplained or untried) or float(table[-1]["percent"]) < LEAST_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
