"""The captions of the report, rendered by Snakemake."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

CAPTIONS = Path(__file__).parents[1] / "workflow" / "report"
SNAKEFILE = """
rule all:
    input:
        expand("tables/table{{table}}.html", table=[1, 2, 3]),
        expand("figures/fig{{figure}}.txt", figure=["3a", "3b", "4"]),
        "figures/fig1.txt",

rule table:
    output: report("tables/table{{table}}.html", caption="{captions}/tables.rst", category="Tables")
    shell: "echo '<table></table>' > {{output}}"

rule figure:
    output: report("figures/fig{{figure}}.txt", caption="{captions}/figures.rst", category="Figures")
    wildcard_constraints: figure="3a|3b|4"
    shell: "echo made > {{output}}"

rule figure1:
    output: report("figures/fig1.txt", caption="{captions}/fig1.rst", category="Figures")
    shell: "echo made > {{output}}"
"""
BEGINNINGS = {
    "tables/table1.html": "Classification. Every method is pruned to the same shares",
    "tables/table2.html": "Semantic segmentation, built like Table 1",
    "tables/table3.html": "A VGG-16 task beside the paper’s Table 3.",
    "figures/fig1.txt": "FGP’s heat maps of single channels",
    "figures/fig3a.txt": "Share k of the scores that FGP keeps",
    "figures/fig3b.txt": "Points of accuracy that pruning costs",
    "figures/fig4.txt": "Ways to choose the channels that stay",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The text of a report on empty tables and figures."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "Snakefile").write_text(SNAKEFILE.format(captions=CAPTIONS))
    for words in (["--cores", "1"], ["--report", "report.html"]):
        command = [str(Path(sys.executable).parent / "snakemake"), *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert not re.search(r"<string>:\d+: \((WARNING|ERROR)", done.stderr), done.stderr
    return html.unescape((folder / "report.html").read_text()).replace("'", "’")


@pytest.mark.parametrize("name", BEGINNINGS)
def test_every_result_has_its_own_caption(report, name):
    entry = re.search(rf'"{re.escape(name)}": \{{.*?"caption": "(.*?)", "', report, re.DOTALL)[1]
    text = re.sub(r"<[^>]*>|\\n", " ", entry)
    assert " ".join(text.split()).startswith(BEGINNINGS[name])
    assert sum(report.count(beginning) for beginning in BEGINNINGS.values()) == len(BEGINNINGS)
