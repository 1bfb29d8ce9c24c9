"""The README's table and picture are those of the published demo and of the rules."""

import pandas as pd
from fgp_workflow import readme

TEXT = (readme.ROOT / "README.md").read_text()


def test_the_readme_is_as_the_files_are():
    assert readme.updated(TEXT) == TEXT, "run `make readme`"


def test_an_edited_number_is_noticed():
    table = readme.demo()
    number = f"{pd.read_csv(readme.PUBLISHED / 'cells.csv').after_percent.max():.1f}"
    assert number in table
    assert table in TEXT
    edited = TEXT.replace(table, table.replace(number, "12.3", 1))
    assert readme.updated(edited) == readme.updated(TEXT) != edited


def test_what_the_readme_shows_is_committed():
    assert (readme.PUBLISHED / "fig3a.png").stat().st_size > 10_000
    assert f"results/published/{readme.PUBLISHED.name}/fig3a.png" in TEXT
