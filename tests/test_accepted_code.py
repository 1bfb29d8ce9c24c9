"""Cells that other code than the present made: every table and figure says so."""

import csv

import pytest
from fgp_workflow import paper
from fgp_workflow.figures import fig3a, fig3b, fig4, style
from fgp_workflow.inputs import read_yaml
from fgp_workflow.table_data import build
from fgp_workflow.table_formats import write
from made_up import experiment, row, table, task

SAID = (
    "were made by other code than the present, or from results of such, and accepted by accept_code: 0123456789, abcdef0123-dirty"
)
OTHER = {"accepted_code": True}
ROWS = [
    row("a", "dense/unpruned", 0, 91.0),
    row("a", "dense/unpruned", 1, 92.0, accepted_commits="abcdef0123-dirty", **OTHER),
    row("a", "fgp/cumulative-0.40", 0, 80.0, accepted_commits="0123456789", **OTHER),
    row("a", "fgp/cumulative-0.40", 1, 81.0, accepted_commits="0123456789 abcdef0123-dirty", **OTHER),
    row("a", "fgp/macs-0.5000", 0, 82.0),
    row("a", "fgp/macs-0.5000", 1, 83.0),
]


@pytest.fixture(scope="module")
def asking():
    return experiment(
        datasets={"digits32": {"source": "digits"}},
        tasks={"a": task("digits32", "vgg16", k={"half": 0.4}, budgets={"half": 0.5})},
        methods=["fgp"],
        figures={"fig3a": {"task": "a", "k": [0.4]}, "fig4": {"tasks": ["a"], "k": 0.4, "share": 0.3}},
    )


def test_every_format_of_a_table(asking, tmp_path):
    write(build(1, table(ROWS), asking, read_yaml(paper.FILE)), tmp_path)
    markdown, latex, html = ((tmp_path / f"table1.{suffix}").read_text() for suffix in ("md", "tex", "html"))
    title = f"Classification (incomplete: 2 of 8 cells missing; 3 of 6 cells {SAID})"
    assert markdown.startswith(f"# Table 1: {title}\n")
    assert rf"\caption{{{title.replace('_', chr(92) + '_')}: digits32, vgg16.}}" in latex
    assert f"<h1>Table 1: {title}</h1>" in html
    for text in (markdown, html):
        assert "seed 0, 1: made by other code (0123456789, abcdef0123-dirty), accepted by accept_code." in text
        assert "seed 1: made by other code (abcdef0123-dirty), accepted by accept_code." in text
    records = {record["selection"]: record for record in csv.DictReader((tmp_path / "table1.csv").read_text().splitlines())}
    assert {name: record["seeds_accepted_code"] for name, record in records.items()} == {
        **{"unpruned": "1", "cumulative-0.40": "2", "count-0.40": "0", "macs-0.5000": "0"}
    }
    assert records["cumulative-0.40"]["accepted_commits"] == "0123456789, abcdef0123-dirty"
    assert {record["table_is"] for record in records.values()} == {title.split("(", 1)[1][:-1]}


def test_no_word_where_the_present_code_made_all(asking, tmp_path):
    ours = [{**row, "accepted_code": False, "accepted_commits": None} for row in ROWS]
    ours += [row("a", "fgp/count-0.40", seed, 70.0) for seed in (0, 1)]
    write(build(1, table(ours), asking, read_yaml(paper.FILE)), tmp_path)
    for path in tmp_path.iterdir():
        assert "accept" not in path.read_text()
        assert "table_is" not in path.read_text()


def said(figure):
    texts = [figure.get_suptitle(), *(legend.get_title().get_text() for legend in figure.legends)]
    style.plt.close(figure)
    return " ".join(" ".join(texts).split())


def test_titles_of_figures(asking):
    assert said(fig3a.draw(fig3a.prepare(table(ROWS), asking))) == f"3 of 4 cells {SAID}"
    assert f"incomplete: 10 of 14 cells missing 3 of 4 cells {SAID} " in said(fig4.draw(fig4.prepare(table(ROWS), asking)))


def test_title_of_the_class_sweep():
    asking = experiment(
        datasets={"digits32": {"source": "digits"}},
        tasks={"a": task("digits32", "vgg16")},
        methods=["fgp"],
        figures={"fig3b": {"task": "a", "classes": [2], "k": 0.4}},
    )
    made = table([{**row, "task": "a-c2"} for row in ROWS])
    assert said(fig3b.draw(fig3b.prepare(made, asking, read_yaml(paper.FILE)))) == f"3 of 4 cells {SAID}"


def test_the_title_stays_on_the_figure(asking):
    figure = fig3a.draw(fig3a.prepare(table(ROWS), asking))
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= figure.bbox.height
    assert box.y0 >= figure.axes[0].title.get_window_extent().y1
    style.plt.close(figure)
