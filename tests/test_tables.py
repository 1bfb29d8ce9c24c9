"""Which rows a table has, what stands in them, and what is said below."""

import math
import re
import subprocess
import sys

import pandas as pd
import pytest
from fgp_workflow import cells, paper, tables
from fgp_workflow.inputs import read_yaml
from fgp_workflow.table_data import build
from fgp_workflow.table_formats import to_csv, to_markdown
from made_up import row, table
from table_cases import CELLS, CIFAR, SETS, TASKS, asking, cell, find

from fgp.errors import FgpError

DEMO = paper.FILE.parents[1] / "demo.yaml"


@pytest.fixture(scope="module")
def printed():
    return read_yaml(paper.FILE)


@pytest.fixture(scope="module")
def built(printed):
    return build(1, CELLS, asking(), printed)


def numbers(built, method, selection):
    return built.blocks[0].numbers.loc[find(built, method, selection)]


def footnotes(built, method, selection, column, block=0):
    return built.blocks[block].footnotes.get((find(built, method, selection, block), column), ())


def test_means_and_paired_differences_by_hand(built):
    l1 = numbers(built, "l1", "macs-0.2368")
    assert (l1["after_percent", "mean"], l1["after_percent", "std"]) == (92.5, 0.0)
    assert l1["minus_dense_points", "mean"] == pytest.approx(-1.0)
    assert l1["minus_dense_points", "std"] == pytest.approx(math.sqrt(0.5))
    assert (l1["minus_fgp_points", "mean"], l1["minus_fgp_points", "count"]) == (1.0, 2)
    fgp = numbers(built, "fgp", "macs-0.2368")
    assert fgp["before_percent", "mean"] == 45.0
    assert pd.isna(fgp["minus_fgp_points", "mean"])
    assert pd.isna(numbers(built, "fgp", "cumulative-0.35")["minus_fgp_points", "mean"])
    assert pd.isna(numbers(built, "dense", "unpruned")["minus_dense_points", "mean"])
    assert numbers(built, "slimming", "macs-0.2368")["minus_fgp_points", "mean"] == 7.0
    assert pd.isna(numbers(built, "scratch-e", "macs-0.2368")["before_percent", "mean"])


def test_rows_and_their_order(built):
    rows = [(row.budget, row.method, row.selection) for row in built.blocks[0].rows]
    per_budget = ["fgp", "l1", "slimming", "aofp", "scratch-e"]
    assert rows == [
        ("", "dense", "unpruned"),
        ("FGP*", "fgp", "cumulative-0.35"),
        ("FGP*", "fgp", "count-0.35"),
        *(("FGP*", method, "macs-0.2368") for method in per_budget),
        ("FGP+", "fgp", "cumulative-0.40"),
        ("FGP+", "fgp", "count-0.40"),
        *(("FGP+", method, "macs-0.2655") for method in per_budget),
        ("own", "slimming", "macs-0.5201"),
        *[("", "", "")] * 2,
    ]
    assert [row.label for row in built.blocks[0].rows[-2:]] == ["GT", "HRank"]
    assert len(built.blocks) == 1


def test_every_cell_of_the_tables_has_a_row(printed):
    asked = asking()
    shown = {
        (block.facts["task"], row.method, row.selection)
        for number in asked.tables
        for block in build(number, CELLS, asked, printed).blocks
        for row in block.rows
        if row.method
    }
    assert shown == {(cell.task, cell.method, cell.selection) for cell in asked.cells}


def test_fgp_as_defined_has_both_readings(built):
    ways = {row.selection: (row.way, row.printed and row.printed.method) for row in built.blocks[0].rows if row.method == "fgp"}
    assert ways["cumulative-0.40"] == ("as defined (Section 5.4), k 0.40", "FGP+")
    assert ways["count-0.40"] == ("as defined (Eq. 11), k 0.40", None)
    assert ways["macs-0.2655"] == ("equal MACs, 26.55 %", "FGP+")
    assert numbers(built, "fgp", "count-0.35")["after_percent", "mean"] == 86.0
    (note,) = [note for note in built.notes if "as defined" in note]
    assert "Section 5.4: a layer keeps the smallest set of channels that holds the share k of its scores." in note
    assert "Eq. 11: it keeps the share k of its channels, rounded up." in note


def test_best_is_among_equal_macs_and_complete_seeds(built):
    block = built.blocks[0]
    assert [(row.method, row.selection) for row, best in zip(block.rows, block.best, strict=True) if best] == [
        ("l1", "macs-0.2368")
    ]


def test_ties_are_all_best_and_a_single_row_is_not(printed):
    tie = [cell(f"{method}/macs-0.2368", seed, 90.0) for method in ("fgp", "l1") for seed in (0, 1)]
    tie.append(cell("slimming/macs-0.2368", 0, 90.0))
    block = build(1, table(tie), asking(), printed).blocks[0]
    assert [row.method for row, best in zip(block.rows, block.best, strict=True) if best] == ["fgp", "l1"]
    assert not any(build(1, table(tie[:2]), asking(), printed).blocks[0].best)


def test_a_missed_budget_is_marked(printed):
    made = [cell("l1/macs-0.2368", 0, 90.0, macs=94_300_000), cell("fgp/macs-0.2368", 0, 90.0, macs=94_200_000)]
    built = build(1, table(made), asking(), printed)
    assert footnotes(built, "l1", "macs-0.2368", "macs") == ()
    assert "more than 0.5 %" in footnotes(built, "fgp", "macs-0.2368", "macs")[0]
    assert re.search(r"94\.20 M \(23\.55 %\) \[\d+\]", to_markdown(built))


def test_holes_are_marked_not_an_error(built, printed):
    assert footnotes(built, "l1", "macs-0.2655", "after") == ("not there: failed or not run.",)
    assert footnotes(built, "slimming", "macs-0.2368", "n") == ("seed 1 not there: failed or not run.",)
    partly = numbers(built, "slimming", "macs-0.2368")
    assert partly["after_percent", "count"] == 1
    assert pd.isna(partly["after_percent", "std"])
    empty = build(1, table([]), asking(), printed)
    assert (empty.blocks[0].numbers["after_percent", "count"] == 0).all()
    assert empty.remarks == ("incomplete: 32 of 32 cells missing",)
    assert re.search(r"— \[\d+\]", to_markdown(empty))


def test_multiples_are_named(printed):
    rounded = asking(tasks={**TASKS, "cifar-vgg": {**CIFAR, "round_to": 8}})
    ways = {row.method: (row.selection, row.way, row.reference) for row in build(1, CELLS, rounded, printed).blocks[0].rows}
    assert ways["l1"] == ("macs-0.2655-x8", "equal MACs, 26.55 %, multiples of 8", "macs-0.2655-x8")
    assert ways["aofp"] == ("macs-0.2655", "equal MACs, 26.55 %", "macs-0.2655-x8")


def test_table_3_is_in_percent_saved(printed):
    built = build(3, CELLS, asking(), printed)
    rows = [(row.budget, row.label, row.selection) for row in built.blocks[0].rows]
    assert rows == [
        ("", "dense", "unpruned"),
        ("FGP+", "FGP", "cumulative-0.40"),
        ("FGP+", "FGP", "count-0.40"),
        ("FGP+", "FGP", "macs-0.2655"),
        ("FGP+", "AOFP", "macs-0.2655"),
        ("own", "AOFP", "macs-0.3105"),
        ("", "GFBS", ""),
    ]
    made = table([*CELLS.to_dict("records"), cell("fgp/macs-0.2655", 0, 91.0, 1.0)])
    text = to_markdown(build(3, made, asking(), printed))
    assert "100.00 M (75.00 %)" in text
    assert "94.21M (70.00 %)" in text
    assert "% saved" in text
    assert "what is saved of the dense network's" in text


def test_segmentation_approx_and_another_experiment(printed, built):
    segmentation = build(2, table([]), asking(), printed)
    text = to_markdown(segmentation)
    assert "mIoU" in text
    assert "only the pattern can be compared" in text
    assert "CamVid; segnet at full width" in text
    assert "scenes (source scenes); segnet at width 0.25" in text
    assert footnotes(segmentation, "cap", "macs-0.3618", "label") == (
        "approx.: the paper names a channel affinity that guides the L1 penalty on BN scales; its equations are ours",
        "Trains from random weights (recipe short) before channels are selected; then fine-tuned like all.",
    )
    assert "| CAP (approx.) [" in text
    assert not any(row.method == "cap" for row in built.blocks[0].rows)


def test_methods_with_training_of_their_own_say_so(printed):
    task = {**CIFAR, "stage_recipes": {"aofp": "long"}}
    asked = asking(tasks={"cifar-vgg": task}, methods=["fgp", "dcp", "aofp", "frs", "slimconv"])
    built = build(1, table([cell("dense/unpruned", 0, 94.0), cell("slimconv/unpruned", 0, 91.0)]), asked, printed)
    assert footnotes(built, "dcp", "macs-0.2368", "label") == (
        "Trains on from the dense network (recipe short) before channels are selected; then fine-tuned like all.",
    )
    assert "while it trains on from the dense network (recipe long)" in footnotes(built, "aofp", "macs-0.2368", "label")[0]
    assert "while it trains from random weights (recipe long)" in footnotes(built, "frs", "macs-0.2368", "label")[0]
    slimconv = built.blocks[0].rows[find(built, "slimconv", "unpruned")]
    assert (slimconv.budget, slimconv.way, slimconv.printed) == ("", "other architecture", None)
    assert slimconv.notes == ("Another architecture, trained from random weights (recipe long); nothing is pruned.",)
    assert numbers(built, "slimconv", "unpruned")["minus_dense_points", "mean"] == -3.0
    assert "slimconv" not in {row.method for row in built.blocks[0].rows if row.budget}


def test_remark_on_a_subset_but_not_on_the_papers_experiment(built, printed):
    assert built.blocks[0].remark == ""
    limited = asking(datasets={**SETS, "cifar10": {"source": "cifar10", "train_limit": 5000}})
    assert "train_limit 5000, 32x32 pixels" in build(1, table([]), limited, printed).blocks[0].remark
    small = asking(datasets={**SETS, "cifar10": {"source": "cifar10", "size": 16}})
    assert "ours (16x16 pixels)" in build(1, table([]), small, printed).blocks[0].remark
    same = asking(datasets={**SETS, "cifar10": {"source": "cifar10", "size": [32, 32]}})
    assert build(1, table([]), same, printed).blocks[0].remark == ""


def test_no_task_of_the_kind(printed):
    empty = build(2, CELLS, asking(tasks={"cifar-vgg": CIFAR}, methods=["fgp"]), printed)
    assert "No task of this kind" in to_markdown(empty)
    assert to_csv(empty) == "table\n"


def test_unprinted_rows_are_refused(printed):
    wrong = {**CIFAR, "paper": {"table": "T1", "backbone": "VGG-19", "column": "acc_cifar10"}}
    with pytest.raises(FgpError, match=r"VGG-19.*legal: .*VGG-16 with acc_cifar10"):
        build(1, CELLS, asking(tasks={**TASKS, "cifar-vgg": wrong}), printed)


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_command_on_the_demo_configuration(tmp_path, number):
    cells.write(CELLS, tmp_path / "cells.csv")
    words = ["--cells", str(tmp_path / "cells.csv"), "--config", str(DEMO), "--table", number, "--out-dir", str(tmp_path / "out")]
    assert tables.main(words) == 0
    names = [f"table{number}.{suffix}" for suffix in ("csv", "html", "md", "tex")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    text = (tmp_path / "out" / f"table{number}.md").read_text()
    assert "FGP" in text
    assert "only the pattern can be compared" in text


def test_command_names_what_is_wrong(tmp_path, capsys):
    words = ["--cells", str(tmp_path / "absent.csv"), "--config", str(DEMO), "--table", "1", "--out-dir", str(tmp_path / "out")]
    assert tables.main(words) == 1
    assert "absent.csv" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("tasks: [")
    assert tables.main([*words, "--config", str(tmp_path / "broken.yaml")]) == 1
    assert "broken.yaml: not valid YAML" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_and_collection_load_no_heavy_packages(tmp_path):
    cells.write(table([row("digits-vgg16", "dense/unpruned", 0, 9.0)]), tmp_path / "cells.csv")
    words = ["--cells", str(tmp_path / "cells.csv"), "--config", str(DEMO), "--table", "1", "--out-dir", str(tmp_path / "out")]
    code = f"""
import sys
import fgp_workflow.collect
import fgp_workflow.figures
from fgp_workflow import tables
assert tables.main({words!r}) == 0
print(sorted({{"torch", "torchvision", "sklearn", "matplotlib", "snakemake", "scipy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
