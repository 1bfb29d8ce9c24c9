"""A user's own images, without printed numbers: tables and figures like any other."""

import csv

import pytest
import yaml
from fgp_workflow import cells, figures, tables
from fgp_workflow.inputs import read_experiment
from made_up import RECIPES, row, table, task

METHODS = ["fgp", "l1"]
OURS = {"dense": (90.0, 92.0), "cumulative": (80.0, 80.0), "count": (70.0, 72.0), "fgp": (85.0, 87.0), "l1": (86.0, 89.0)}


def configuration(network="vgg16", source="folder:leaves", **keys):
    ways = {"k": {"small": 0.4}, "budgets": {"small": 0.5}, "at_printed": {"l1": 0.25}}
    return {
        **{"run": "leaves", "seeds": [0, 1], "recipes": RECIPES, "methods": METHODS},
        "datasets": {"leaves": {"source": source, "size": 64}},
        "tasks": {"leaves": task("leaves", network, **ways, **keys)},
        "figures": {"fig3a": {"task": "leaves", "k": [0.2, 0.4]}, "fig4": {"tasks": ["leaves"], "k": 0.4, "share": 0.3}},
    }


@pytest.fixture
def folder(tmp_path):
    """The configuration, and made-up cells of everything that it asks for."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration()))
    rows = []
    for cell in read_experiment(tmp_path / "config.yaml").cells:
        name = cell.selection.partition("-")[0] if cell.selection.startswith(("cumulative", "count")) else cell.method
        speed = {"latency_b1_images_per_second": 50.0}
        rows += [row(cell.task, cell.path, seed, OURS[name][seed], **speed) for seed in (0, 1)]
    cells.write(table(rows), tmp_path / "cells.csv")
    return tmp_path


def words(folder):
    return ["--cells", str(folder / "cells.csv"), "--config", str(folder / "config.yaml")]


def test_tables_in_all_formats_without_a_word_of_the_paper(folder):
    assert read_experiment(folder / "config.yaml").tables == [1]
    assert tables.main([*words(folder), "--table", "1", "--out-dir", str(folder / "tables")]) == 0
    texts = {path.suffix: path.read_text() for path in (folder / "tables").iterdir()}
    assert sorted(texts) == [".csv", ".html", ".md", ".tex"]
    for text in texts.values():
        assert "paper" not in text.lower()
        assert "print" not in text.lower()
        assert "FLOPs" not in text
        assert "incomplete" not in text
    markdown = texts[".md"]
    assert markdown.startswith("# Table 1: Classification\n\n## leaves, vgg16\n\n| Budget ")
    for way in (
        "as defined (Section 5.4), k 0.40",
        "as defined (Eq. 11), k 0.40",
        "equal MACs, 50.00 %",
        "MACs of its own, 25.00 %",
    ):
        assert f"| {way}" in markdown
    assert "- Equal MACs: every method is pruned to the same share of the dense network's MACs.\n" in markdown
    assert "Section 5.4: a layer keeps the smallest set" in markdown
    records = list(csv.DictReader(texts[".csv"].splitlines()))
    found = {(record["method"], record["selection"]): (record["after_percent"], record["minus_fgp_points"]) for record in records}
    assert found == {
        ("dense", "unpruned"): ("91.0", ""),
        ("fgp", "cumulative-0.40"): ("80.0", ""),
        ("fgp", "count-0.40"): ("71.0", ""),
        ("fgp", "macs-0.5000"): ("86.0", ""),
        ("l1", "macs-0.5000"): ("87.5", "1.5"),
        ("l1", "macs-0.2500"): ("87.5", ""),
    }
    assert records[0]["backbone"] == ""


@pytest.mark.parametrize("figure", ["3a", "4"])
def test_figures(folder, figure):
    assert figures.main([*words(folder), "--figure", figure, "--out-stem", str(folder / "out" / f"fig{figure}")]) == 0
    assert (folder / "out" / f"fig{figure}.pdf").read_bytes().startswith(b"%PDF-")
    assert (folder / "out" / f"fig{figure}.png").stat().st_size > 10_000


def test_beside_a_printed_task_only_that_one_speaks_of_the_paper(folder):
    raw = configuration()
    raw["datasets"]["cifar10"] = {"source": "cifar10"}
    paper = {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"}
    raw["tasks"]["cifar"] = task("cifar10", "vgg16", k={"FGP+": 0.4}, budgets={"FGP+": 0.2655}, paper=paper)
    (folder / "config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert tables.main([*words(folder), "--table", "1", "--out-dir", str(folder / "tables")]) == 0
    ours, theirs = (folder / "tables" / "table1.tex").read_text().split(r"\end{table*}")[:2]
    assert "the paper" not in ours
    assert "paper FLOPs" in theirs
    assert "the one that the paper prints for FGP." in theirs
    ours, theirs = (folder / "tables" / "table1.md").read_text().split("## cifar10, vgg16")
    assert "paper" not in ours
    assert "Printed numbers stand as printed" in theirs


def test_own_segmentation_network_fills_table_2(folder):
    raw = configuration("segnet", "camvid")
    raw["figures"] = {}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert read_experiment(folder / "config.yaml").tables == [2]
    assert tables.main([*words(folder), "--table", "2", "--out-dir", str(folder / "tables")]) == 0
    text = (folder / "tables" / "table2.md").read_text()
    assert text.startswith("# Table 2: Semantic segmentation\n\n## leaves, segnet\n\n")
    assert "mIoU before" in text
    assert "paper" not in text
