"""Tables and figures of some of their cells say what is missing."""

import csv
import re

import pytest
import yaml
from fgp_workflow import cells, paper, table_formats
from fgp_workflow.figures import fig3a, fig3b, fig4, style
from fgp_workflow.figures import main as draw
from fgp_workflow.inputs import read_experiment, read_yaml
from fgp_workflow.table_data import build
from made_up import RECIPES, row, table, task

ABSENT = "not there: failed or not run"
RAW = {
    **{"run": "partial", "seeds": [0, 1], "recipes": RECIPES, "methods": ["fgp", "l1", "fpgm"]},
    "datasets": {"digits": {"source": "digits", "size": 32}},
    "tasks": {"digits-vgg16": task("digits", "vgg16", k={"FGP+": 0.4}, budgets={"FGP+": 0.5})},
    "figures": {
        "fig3a": {"task": "digits-vgg16", "k": [0.2, 0.4, 0.8]},
        "fig3b": {"task": "digits-vgg16", "classes": [2, 5], "k": 0.4},
        "fig4": {"tasks": ["digits-vgg16"], "k": 0.4, "share": 0.3},
    },
}


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Configuration, and cells among which a seed, a method and a dense network are missing."""
    folder = tmp_path_factory.mktemp("partial")
    (folder / "config.yaml").write_text(yaml.safe_dump(RAW))
    there = [("digits-vgg16", "dense/unpruned", 1), ("digits-vgg16", "l1/macs-0.5000", 0)]
    for seed in (0, 1):
        there += [
            ("digits-vgg16", f"fgp/{name}", seed)
            for name in ("cumulative-0.40", "cumulative-0.80", "count-0.40", "macs-0.5000", "peak-0.30")
        ]
        there += [("digits-vgg16-c5", path, seed) for path in ("dense/unpruned", "fgp/cumulative-0.40")]
    rows = [row(*key, 90.0 + key[-1], macs_remaining_percent=50.0) for key in there]
    cells.write(table(rows), folder / "cells.csv")
    return folder


def test_tables_mark_holes_in_every_format(partial, tmp_path):
    asking = read_experiment(partial / "config.yaml")
    built = build(1, cells.read(partial / "cells.csv"), asking, read_yaml(paper.FILE))
    # dense, FGP as defined in two readings, FGP, L1 and FPGM at equal MACs: 6 rows, 2 seeds each
    assert built.remarks == ("incomplete: 4 of 12 cells missing",)
    table_formats.write(built, tmp_path)
    markdown, latex, html = ((tmp_path / f"table1.{suffix}").read_text() for suffix in ("md", "tex", "html"))
    assert markdown.startswith("# Table 1: Classification (incomplete: 4 of 12 cells missing)\n")
    assert r"\caption{Classification (incomplete: 4 of 12 cells missing): " in latex
    assert "<h1>Table 1: Classification (incomplete: 4 of 12 cells missing)</h1>" in html
    number = re.search(rf"^- \[(\d+)\] {ABSENT}\.$", markdown, re.M)[1]
    line = next(line for line in markdown.splitlines() if "FPGM" in line and "equal MACs" in line)
    assert f"— [{number}]" in line
    assert re.search(rf"\[\d+\] seed 1 {ABSENT}\.", markdown)
    assert re.search(r"\[\d+\] over 1 of 2 seeds; what the others are compared with is not there", markdown)
    assert rf"---\textsuperscript{{{re.search(rf'superscript{{(.)}} {ABSENT}', latex)[1]}}}" in latex
    assert f'<li id="note{number}">{ABSENT}.</li>' in html
    with open(tmp_path / "table1.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["table_is"] for record in records} == set(built.remarks)
    fpgm = next(record for record in records if record["method"] == "fpgm")
    assert (fpgm["after_percent"], fpgm["seeds"], fpgm["seeds_expected"]) == ("", "0", "2")
    assert ABSENT in fpgm["notes"]


@pytest.mark.parametrize(
    ("module", "title", "crosses"),
    [
        (fig3a, "incomplete: 3 of 8 cells missing", [[0.2]]),
        (fig3b, "incomplete: 4 of 8 cells missing", [[2]]),
        (fig4, "incomplete: 9 of 14 cells missing", [[2, 3, 4, 5], [2, 3, 4, 5]]),
    ],
)
def test_figures_mark_holes(partial, module, title, crosses):
    made, asking = cells.read(partial / "cells.csv"), read_experiment(partial / "config.yaml")
    printed = [read_yaml(paper.FILE)] if module is fig3b else []
    figure = module.draw(module.prepare(made, asking, *printed))
    assert (figure.legends[0].get_title().get_text().splitlines()[0] if figure.legends else figure.get_suptitle()) == title
    lines = [line for axis in figure.axes for line in axis.lines if line.get_label() == "not there"]
    assert [list(line.get_xdata()) for line in lines] == crosses
    assert {line.get_marker() for line in lines} == {"x"}
    style.plt.close(figure)


def test_a_figure_without_any_cell(partial, tmp_path, capsys):
    lines = (partial / "cells.csv").read_text().splitlines(keepends=True)
    (tmp_path / "cells.csv").write_text("".join(line for line in lines if "-c5" not in line))
    words = ["--figure", "3b", "--cells", str(tmp_path / "cells.csv"), "--config", str(partial / "config.yaml")]
    words += ["--out-stem", str(tmp_path / "fig3b")]
    assert draw(words) == 1
    assert draw([*words, "--missing-ok"]) == 0
    assert "not drawn: figure 3b: cells.csv holds none of its cells" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
