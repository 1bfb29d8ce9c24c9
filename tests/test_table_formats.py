"""Tables as CSV, Markdown, LaTeX and HTML."""

import csv
import io
import itertools
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from fgp_workflow import paper, table_formats
from fgp_workflow.inputs import read_yaml
from fgp_workflow.table_data import Table, build
from made_up import table
from table_cases import CELLS, ROWS, TASKS, asking, find


@pytest.fixture(scope="module")
def printed():
    return read_yaml(paper.FILE)


@pytest.fixture(scope="module")
def built(printed):
    return build(1, CELLS, asking(), printed)


class Page(HTMLParser):
    """The tables, links, anchors and remote addresses of a page; every element must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.anchors, self.remote, self.open, self.text = [], set(), set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.links |= {of["href"]} if "href" in of else set()
        self.anchors |= {f"#{of['id']}"} if "id" in of else set()
        self.remote += [value for value in of.values() if value and "//" in value] + ([tag] if tag in ("script", "link") else [])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        elif "style" not in self.open:
            self.text.append(data.strip())


def test_printed_numbers_stand_as_printed_with_marks(built):
    text = table_formats.to_markdown(built)
    line = next(line for line in text.splitlines() if "its printed MACs" in line)
    assert re.search(r"162\.90M \(51\.88 %\) +\| +5\.4M \(12\.03 %\) \[\d+\] \| +92\.91 \|$", line)
    number = re.search(r"12\.03 %\) \[(\d+)\]", line)[1]
    assert f"- [{number}] Printed: 5.4 M of the printed 17.7 M are 30.5 %." in text
    rows = built.blocks[0].rows
    for selection in ("cumulative-0.35", "macs-0.2368"):
        assert rows[find(built, "fgp", selection)].printed.values["metric"] == "92.68"
    assert rows[find(built, "slimming", "macs-0.2368")].printed is None


def test_csv_parses_back(built):
    lines = list(csv.DictReader(io.StringIO(table_formats.to_csv(built))))
    assert len(lines) == len(built.blocks[0].rows)
    (l1,) = [line for line in lines if (line["method"], line["selection"]) == ("l1", "macs-0.2368")]
    assert float(l1["after_percent"]) == 92.5
    assert float(l1["minus_dense_points_sd"]) == pytest.approx(math.sqrt(0.5))
    assert float(l1["latency_b128_median_ms"]) == 8.5
    assert (l1["seeds"], l1["seeds_expected"], l1["best_at_equal_macs"], l1["printed_method"]) == ("2", "2", "True", "")
    (hole,) = [line for line in lines if (line["method"], line["selection"]) == ("l1", "macs-0.2655")]
    assert hole["after_percent"] == ""
    (dense,) = [line for line in lines if line["method"] == "dense"]
    assert (dense["printed_flops"], dense["printed_metric"], dense["minus_dense_points"]) == ("314.03M", "93.92", "")
    (hrank,) = [line for line in lines if line["label"] == "HRank"]
    assert (hrank["method"], hrank["seeds"], hrank["seeds_expected"]) == ("", "0", "0")


def test_csv_columns_are_those_of_the_published_tables(built):
    published = paper.FILE.parents[2] / "results/published"
    (old,) = published.glob("cifar10-*_criteria_cpu_table1.csv")
    names = old.read_text().splitlines()[0].split(",")
    ours = table_formats.to_csv(built).splitlines()[0].split(",")
    assert [name for name in ours if name != "table_is" and "_b128_" not in name] == [
        name for name in names if not re.search("_b(1|32)_", name)
    ]


def test_markdown_is_aligned(printed):
    made = table([row for row in ROWS if row["method"] != "slimming"])
    lines = [line for line in table_formats.to_markdown(build(1, made, asking(), printed)).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, character in enumerate(line) if character == "|") for line in lines}) == 1
    rulers = lines[1].strip("|").split("|")
    assert all(re.fullmatch(":-+", ruler) for ruler in rulers[:3])
    assert all(re.fullmatch("-+:", ruler) for ruler in rulers[3:])


def test_markdown_escapes():
    class Said(Table):
        notes = ("FGP* stays, *this* and a|b [x] _y_ a_b do not",)

    assert "- FGP* stays, \\*this* and a\\|b \\[x\\] \\_y_ a_b do not" in table_formats.to_markdown(Said(9, "t", "remaining", ()))


def test_negative_and_signed_points(built):
    text = table_formats.to_markdown(built)
    line = next(line for line in text.splitlines() if "| L1" in line and "23.68" in line)
    assert "−1.00 ± 0.71" in line
    assert "+1.00 ± 0.71" in line
    assert "**92.50 ± 0.00**" in line


@pytest.mark.parametrize("number", [1, 2, 3])
def test_latex_is_balanced_and_escaped(printed, number):
    text = table_formats.to_latex(build(number, CELLS, asking(), printed))
    bare = re.sub(r"\\[{}\\&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "#" not in bare
    assert not re.search(r"[^\x00-\x7f]", text)
    for line in bare.splitlines():
        assert "%" not in line or line.startswith("% needs") or line.endswith("{!}{%")
    opened = re.findall(r"\\begin\{([a-z*]+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{([a-z*]+)\}", text))
    tabulars = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}\}", text, re.DOTALL)
    assert tabulars
    for tabular in tabulars:
        columns = len(re.match(r"\\begin\{tabular\}\{([lr]+)\}", tabular)[1])
        rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}


def test_latex_rules_separate_the_budgets(built):
    text = table_formats.to_latex(built)
    first = [re.split(" & ", line)[0] for line in text.splitlines() if line.startswith("\\midrule") or line.endswith(r"\\")]
    budgets = ["Budget", "---", *["FGP*"] * 7, *["FGP+"] * 7, "own", "---", "---"]
    expected = [budgets[0]]
    for before, budget in itertools.pairwise(budgets):
        expected += [r"\midrule", budget] if before != budget else [budget]
    assert first == expected


def test_latex_escapes():
    assert table_formats.latex(r"a_b & 50% {x} \ ~ ^ #$ ± − — Δ λ") == (
        r"a\_b \& 50\% \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \#\$ $\pm$ $-$ --- $\Delta$ $\lambda$"
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_html_is_one_page_with_the_cells_of_the_markdown(printed, number):
    built = build(number, CELLS, asking(), printed)
    page, markdown = Page(table_formats.to_html(built)), table_formats.to_markdown(built)
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|:-")]
    plain = [[re.sub(r"\*\*| ?\[([\d,]+)\]", r"\1", cell.strip()) for cell in line.strip("|").split(" | ")] for line in lines]
    assert page.tables == [[[cell.strip() for cell in line] for line in plain]]
    assert page.remote == []
    assert page.links
    assert page.links == page.anchors & page.links
    assert len(page.anchors) == len(re.findall(r"^- \[\d+\] ", markdown, re.M))
    for note in built.notes:
        assert note in page.text


def test_html_is_the_same_each_time_and_escaped(built):
    text = table_formats.to_html(built)
    assert text == table_formats.to_html(built)
    assert "<b>92.50 ± 0.00</b>" in text
    title = table_formats.to_html(Table(1, "<i>&", "remaining", ()))
    assert "<h1>Table 1: &lt;i&gt;&amp;</h1>" in title
    assert "No task of this kind" in title


def test_blocks_share_the_numbers_of_footnotes_in_html_and_markdown(printed):
    two = asking(tasks={**TASKS, "again": TASKS["cifar-vgg"]})
    built = build(1, table([]), two, printed)
    page = Page(table_formats.to_html(built))
    assert len(page.tables) == 2
    assert page.tables[0] == page.tables[1]
    assert table_formats.to_markdown(built).count("] not there: failed or not run.") == 1


def test_the_frame_of_a_table_has_a_line_a_row(built):
    block = built.blocks[0]
    assert list(block.numbers.index) == list(range(len(block.rows)))
    assert pd.isna(block.numbers.loc[len(block.rows) - 1, ("macs", "mean")])


@pytest.mark.parametrize(("amount", "text"), [(74_160_000, "74.16 M"), (1.3e9, "1.30 G"), (61_540, "61.5 k"), (99, "99")])
def test_quantity(amount, text):
    assert table_formats.quantity(amount) == text
