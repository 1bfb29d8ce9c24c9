import csv
import io
import math
import re

import pytest
from fgp_workflow import collect, paper, table_formats, tables
from fgp_workflow.inputs import read_yaml
from fgp_workflow.summary import estimate, paired
from test_figures import WHOLE

from fgp.errors import FgpError
from fgp.methods import Method

METHODS = {
    "fgp": Method("FGP", selection="cumulative", paper_name="FGP"),
    "l1": Method("L1"),
    "slimming": Method("Slimming", kind="sparse-training", paper_name="Slimming"),
    "aofp": Method("AOFP", paper_name="AOFP"),
    "cap": Method("CAP", paper_name="CAP", approximate="A & B_1 at 50%", tasks=frozenset({"segmentation"})),
    "scratch-e": Method("Scratch-E", kind="scratch", plan_of="fgp", equal="epochs"),
}
TASK = {
    "dataset": "cifar10",
    "network": "vgg16",
    "width": 1.0,
    **{"recipe": "cifar", "finetune": "short", "stage_recipes": {}, "seeds": None, "without": []},
    "k": {"FGP*": 0.35, "FGP+": 0.40},
    "budgets": {"FGP*": 0.2368, "FGP+": 0.2655},
    "at_printed": {"slimming": 0.5201, "aofp": 0.3105},
    "paper": {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"},
}
SEGMENTATION = {
    "dataset": "scenes",
    "network": "segnet",
    "width": 0.25,
    **{"recipe": "scenes", "finetune": "short", "stage_recipes": {"cap": "long"}, "seeds": None, "without": []},
    "k": {"FGP+": 0.40},
    "budgets": {"FGP+": 0.3618},
    "at_printed": {},
    "paper": {"table": "T2", "backbone": "SegNet", "column": "CamVid"},
}
CONFIG = {
    "seeds": [0, 1],
    "datasets": {"cifar10": {"source": "cifar10"}, "scenes": {"source": "scenes", "size": [48, 64]}},
    "tasks": {"cifar-vgg": TASK, "scenes-segnet": SEGMENTATION},
    "methods": list(METHODS),
}


def cell(task, method, selection, seed, after, before=None, macs=100_000_000, params=4_000_000):
    return {
        **{
            "task": task,
            "method": method,
            "selection": selection,
            "seed": seed,
            "before_percent": before,
            "after_percent": after,
        },
        **{"macs": macs, "macs_remaining_percent": macs / 4e6, "params": params, "params_remaining_percent": params / 1.6e5},
        **{"score_seconds": 2.0, "latency_b128_median_ms": 8.0 + seed, "latency_b128_q1_ms": 7.0},
    }


CELLS = [
    cell("cifar-vgg", "dense", "unpruned", 0, 94.0, macs=400_000_000, params=16_000_000),
    cell("cifar-vgg", "dense", "unpruned", 1, 93.0, macs=400_000_000, params=16_000_000),
    cell("cifar-vgg", "fgp", "cumulative-0.35", 0, 80.0, 20.0, macs=10_000_000),
    cell("cifar-vgg", "fgp", "cumulative-0.35", 1, 82.0, 30.0, macs=14_000_000),
    cell("cifar-vgg", "fgp", "macs-0.2368", 0, 92.0, 50.0),
    cell("cifar-vgg", "fgp", "macs-0.2368", 1, 91.0, 40.0),
    cell("cifar-vgg", "l1", "macs-0.2368", 0, 92.5, 10.0),
    cell("cifar-vgg", "l1", "macs-0.2368", 1, 92.5, 10.0),
    cell("cifar-vgg", "slimming", "macs-0.2368", 0, 99.0, 10.0),
    cell("cifar-vgg", "scratch-e", "macs-0.2368", 0, 90.0),
    cell("cifar-vgg", "scratch-e", "macs-0.2368", 1, 90.0),
    cell("cifar-vgg", "slimming", "macs-0.5201", 0, 93.5, 12.0, macs=200_000_000),
    cell("cifar-vgg", "slimming", "macs-0.5201", 1, 93.5, 12.0, macs=200_000_000),
]


@pytest.fixture(scope="module")
def printed():
    return read_yaml(paper.FILE)


@pytest.fixture
def table(printed):
    return tables.build(1, CELLS, CONFIG, METHODS, printed)


def find(table, method, selection, block=0):
    (row,) = [row for row in table.blocks[block].rows if (row.method, row.selection) == (method, selection)]
    return row


def test_estimate_by_hand():
    three = estimate([1.0, 2.0, 6.0])
    assert (three.mean, three.n) == (3.0, 3)
    assert three.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert estimate([5.0]).sd is None
    assert estimate([]) is None


def test_paired_uses_shared_seeds_only():
    difference = paired({0: 5.0, 1: 7.0, 9: 100.0}, {0: 4.0, 1: 4.0, 3: 0.0})
    assert (difference.mean, difference.n) == (2.0, 2)
    assert difference.sd == pytest.approx(math.sqrt(2))
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_means_and_paired_differences_by_hand(table):
    l1 = find(table, "l1", "macs-0.2368").values
    assert (l1["after_percent"].mean, l1["after_percent"].sd) == (92.5, 0.0)
    assert l1["minus_dense_points"].mean == pytest.approx(-1.0)
    assert l1["minus_dense_points"].sd == pytest.approx(math.sqrt(0.5))
    assert (l1["minus_fgp_points"].mean, l1["minus_fgp_points"].n) == (1.0, 2)
    fgp = find(table, "fgp", "macs-0.2368").values
    assert fgp["before_percent"].mean == 45.0
    assert "minus_fgp_points" not in fgp
    assert "minus_fgp_points" not in find(table, "fgp", "cumulative-0.35").values
    assert find(table, "slimming", "macs-0.2368").values["minus_fgp_points"].mean == 7.0
    assert find(table, "scratch-e", "macs-0.2368").values["before_percent"] is None


def test_rows_and_their_order(table):
    rows = [(row.budget, row.method, row.selection) for row in table.blocks[0].rows]
    per_budget = ["fgp", "l1", "slimming", "aofp", "scratch-e"]
    assert rows == [
        ("", "dense", "unpruned"),
        ("FGP*", "fgp", "cumulative-0.35"),
        *(("FGP*", method, "macs-0.2368") for method in per_budget),
        ("FGP+", "fgp", "cumulative-0.40"),
        *(("FGP+", method, "macs-0.2655") for method in per_budget),
        ("own", "slimming", "macs-0.5201"),
        *[("", "", "")] * 2,
    ]
    assert [row.label for row in table.blocks[0].rows[-2:]] == ["GT", "HRank"]
    assert len(table.blocks) == 1


def test_best_is_among_equal_macs_and_complete_seeds(table):
    best = [(row.method, row.selection) for row in table.blocks[0].rows if row.best]
    assert best == [("l1", "macs-0.2368")]


def test_a_missed_budget_is_marked(printed):
    cells = [
        cell("cifar-vgg", "l1", "macs-0.2368", 0, 90.0, macs=94_300_000),
        cell("cifar-vgg", "fgp", "macs-0.2368", 0, 90.0, macs=94_200_000),
    ]
    table = tables.build(1, cells, CONFIG, METHODS, printed)
    assert "macs" not in find(table, "l1", "macs-0.2368").notes
    assert "more than 0.5 %" in find(table, "fgp", "macs-0.2368").notes["macs"][0]
    assert re.search(r"94\.20 M \(23\.55 %\) \[\d+\]", table_formats.to_markdown(table))


def test_ties_are_all_best_and_a_single_row_is_not(printed):
    tie = [cell("cifar-vgg", method, "macs-0.2368", seed, 90.0) for method in ("fgp", "l1") for seed in (0, 1)]
    table = tables.build(1, tie, CONFIG, METHODS, printed)
    assert [row.method for row in table.blocks[0].rows if row.best] == ["fgp", "l1"]
    assert not any(row.best for row in tables.build(1, tie[:2], CONFIG, METHODS, printed).blocks[0].rows)


def test_holes_are_marked_not_an_error(table, printed):
    row = find(table, "l1", "macs-0.2655")
    assert row.n == 0
    assert "not there" in row.notes["after"][0]
    partly = find(table, "slimming", "macs-0.2368")
    assert (partly.n, partly.expected) == (1, 2)
    assert partly.notes["n"]
    assert partly.values["after_percent"].sd is None
    empty = tables.build(1, [], CONFIG, METHODS, printed)
    assert all(row.n == 0 for row in empty.blocks[0].rows)
    assert "—[" in table_formats.to_markdown(empty).replace(" ", "")


def test_printed_numbers_stand_as_printed_with_marks(table):
    text = table_formats.to_markdown(table)
    line = next(line for line in text.splitlines() if "its printed MACs" in line)
    assert re.search(r"162\.90M \(51\.88 %\) +\| +5\.4M \(12\.03 %\) \[\d+\] \| +92\.91 \|$", line)
    number = re.search(r"12\.03 %\) \[(\d+)\]", line)[1]
    assert f"- [{number}] Printed: 5.4 M of the printed 17.7 M are 30.5 %." in text
    for row in (find(table, "fgp", "cumulative-0.35"), find(table, "fgp", "macs-0.2368")):
        assert row.printed.values["metric"] == "92.68"
    assert find(table, "slimming", "macs-0.2368").printed is None


def test_printed_cells_agree_unless_marked(printed):
    """The audit: shares follow from the printed amounts within 0.015 points, except where a mark says otherwise."""

    def amount(text):
        return float(text.rstrip("MG")) * {"G": 1e3}.get(text[-1], 1)

    base = {"flops": {"VGG-16": 314.03, "ResNet-50": 1297.83, "SegNet": 106730, "DeepLab": 1418290}}
    base["params"] = {"VGG-16": 17.7, "ResNet-50": 23.52, "SegNet": 29.45, "DeepLab": 46.00}
    checked = 0
    for name in ("T1", "T2", "T3"):
        for row in printed[name]["rows"]:
            for cost in ("flops", "params"):
                share = row["printed"].get(f"{cost}_percent", "0")
                if share == "0":
                    continue
                network = "DeepLab" if row.get("dataset") == "Cityscapes" else row["backbone"]
                own = amount(row["printed"][cost]) * (1000 if row["printed"][cost] == "564.88" else 1)
                true = 100 * own / base[cost][network]
                true = 100 - true if printed[name]["percent"] == "reduction" else true
                agrees = abs(true - float(share)) <= 0.015
                assert agrees != (f"{cost}_percent" in row.get("marks", {})), (name, row["method"], cost, true)
                checked += 1
    assert checked == 45


def test_marks_point_at_printed_cells(printed):
    for name in ("T1", "T2", "T3"):
        for row in printed[name]["rows"]:
            assert row.get("marks", {}).keys() <= row["printed"].keys()
            assert all(isinstance(value, str) for value in row["printed"].values())


def test_table_3_is_in_percent_saved(printed):
    table = tables.build(3, CELLS, CONFIG, METHODS, printed)
    rows = [(row.budget, row.label, row.selection) for row in table.blocks[0].rows]
    assert rows == [
        ("", "dense", "unpruned"),
        ("FGP+", "FGP", "cumulative-0.40"),
        ("FGP+", "FGP", "macs-0.2655"),
        ("FGP+", "AOFP", "macs-0.2655"),
        ("own", "AOFP", "macs-0.3105"),
        ("", "GFBS", ""),
    ]
    cells = [*CELLS, cell("cifar-vgg", "fgp", "macs-0.2655", 0, 91.0, 1.0)]
    text = table_formats.to_markdown(tables.build(3, cells, CONFIG, METHODS, printed))
    assert "100.00 M (75.00 %)" in text
    assert "94.21M (70.00 %)" in text
    assert "% saved" in text


def test_segmentation_approx_and_another_experiment(printed):
    table = tables.build(2, [], CONFIG, METHODS, printed)
    text = table_formats.to_markdown(table)
    assert "mIoU" in text
    assert "only the pattern can be compared" in text
    assert "CamVid; segnet at full width" in text
    assert "scenes (source scenes); segnet at width 0.25" in text
    assert find(table, "cap", "macs-0.3618").notes["label"] == ("approx.: A & B_1 at 50%",)
    assert "| CAP (approx.) [" in text
    assert not any(row.method == "cap" for row in tables.build(1, [], CONFIG, METHODS, printed).blocks[0].rows)


def test_methods_with_training_of_their_own_say_so(printed):
    methods = {
        **METHODS,
        "dcp": Method("DCP", kind="sparse-training", start="dense"),
        "frs": Method("FRS", kind="gradual"),
        "slimconv": Method("SlimConv", kind="architecture", networks={"vgg16": "slimconv_vgg16"}),
    }
    task = {**TASK, "stage_recipes": {"frs": "long"}}
    config = {**CONFIG, "tasks": {"cifar-vgg": task}, "methods": list(methods)}
    cells = [*CELLS, cell("cifar-vgg", "slimconv", "unpruned", 0, 91.0)]
    table = tables.build(1, cells, config, methods, printed)
    assert find(table, "dcp", "macs-0.2368").notes["label"] == (
        "Trains on from the dense network (recipe short) before channels are selected; then fine-tuned like all.",
    )
    assert "while it trains from random weights (recipe long)" in find(table, "frs", "macs-0.2368").notes["label"][0]
    row = find(table, "slimconv", "unpruned")
    assert row.budget == ""
    assert row.values["after_percent"].mean == 91.0
    assert row.values["minus_dense_points"].mean == -3.0
    assert "nothing is pruned" in row.notes["label"][0]
    assert "slimconv" not in {row.method for row in table.blocks[0].rows if row.budget}


def test_remark_on_a_subset_but_not_on_the_papers_experiment(table, printed):
    assert table.blocks[0].remark == ""
    config = {**CONFIG, "datasets": {**CONFIG["datasets"], "cifar10": {"source": "cifar10", "train_limit": 5000}}}
    assert "train_limit 5000, 32x32 pixels" in tables.build(1, [], config, METHODS, printed).blocks[0].remark


def test_no_task_of_the_kind(printed):
    config = {**CONFIG, "tasks": {"cifar-vgg": TASK}}
    empty = tables.build(2, CELLS, config, METHODS, printed)
    assert "No task of this kind" in table_formats.to_markdown(empty)
    assert table_formats.to_csv(empty) == "table\n"


def test_task_without_printed_numbers(printed):
    config = {**CONFIG, "tasks": {"cifar-vgg": {**TASK, "paper": None}}}
    table = tables.build(1, CELLS, config, METHODS, printed)
    assert "paper FLOPs" not in table_formats.to_markdown(table)
    assert find(table, "slimming", "macs-0.5201").n == 2


def test_unprinted_rows_are_refused(printed):
    wrong = {**TASK, "paper": {"table": "T1", "backbone": "VGG-19", "column": "acc_cifar10"}}
    with pytest.raises(FgpError, match=r"VGG-19.*legal: .*VGG-16 with acc_cifar10"):
        tables.build(1, CELLS, {**CONFIG, "tasks": {"cifar-vgg": wrong}}, METHODS, printed)


def test_csv_parses_back(table):
    lines = list(csv.DictReader(io.StringIO(table_formats.to_csv(table))))
    assert len(lines) == len(table.blocks[0].rows)
    (l1,) = [line for line in lines if (line["method"], line["selection"]) == ("l1", "macs-0.2368")]
    assert float(l1["after_percent"]) == 92.5
    assert float(l1["minus_dense_points_sd"]) == pytest.approx(math.sqrt(0.5))
    assert float(l1["latency_b128_median_ms"]) == 8.5
    assert (l1["seeds"], l1["best_at_equal_macs"], l1["printed_method"]) == ("2", "True", "")
    (hole,) = [line for line in lines if (line["method"], line["selection"]) == ("l1", "macs-0.2655")]
    assert hole["after_percent"] == ""
    (dense,) = [line for line in lines if line["method"] == "dense"]
    assert (dense["printed_flops"], dense["printed_metric"]) == ("314.03M", "93.92")


def test_markdown_is_aligned(printed):
    table = tables.build(1, [row for row in CELLS if row["method"] != "slimming"], CONFIG, METHODS, printed)
    lines = [line for line in table_formats.to_markdown(table).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, character in enumerate(line) if character == "|") for line in lines}) == 1
    assert all(re.fullmatch(r" --+:? ", ruler) for ruler in lines[1].strip("|").split("|"))


def test_latex_is_balanced_and_escaped(printed):
    for number in (1, 2, 3):
        text = table_formats.to_latex(tables.build(number, CELLS, CONFIG, METHODS, printed))
        bare = re.sub(r"\\[{}\\&%$#_]", "", text)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        assert "#" not in bare
        assert not re.search(r"[^\x00-\x7f]", text)
        for line in bare.splitlines():
            assert "%" not in line or line.startswith("% needs") or line.endswith("{!}{%")
        opened = re.findall(r"\\begin\{([a-z*]+)\}", text)
        assert sorted(opened) == sorted(re.findall(r"\\end\{([a-z*]+)\}", text))
        for tabular in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
            columns = len(re.match(r"\\begin\{tabular\}\{([lr]+)\}", tabular)[1])
            rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
            assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}


def test_latex_escapes():
    assert table_formats.latex(r"a_b & 50% {x} \ ~ ^ #$ ± − — Δ λ") == (
        r"a\_b \& 50\% \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \#\$ $\pm$ $-$ --- $\Delta$ $\lambda$"
    )


def test_negative_and_signed_points(table):
    text = table_formats.to_markdown(table)
    line = next(line for line in text.splitlines() if "| L1" in line and "23.68" in line)
    assert "−1.00 ± 0.71" in line
    assert "+1.00 ± 0.71" in line
    assert "**92.50 ± 0.00**" in line


@pytest.mark.parametrize(("amount", "text"), [(74_160_000, "74.16 M"), (1.3e9, "1.30 G"), (61_540, "61.5 k"), (99, "99")])
def test_quantity(amount, text):
    assert table_formats.quantity(amount) == text


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_command_on_the_demo_configuration(tmp_path, number):
    rows = [{**WHOLE, **row} for row in CELLS]
    collect.write(rows, tmp_path / "cells.csv")
    demo = paper.FILE.parents[2] / "config" / "demo.yaml"
    words = [
        "--cells",
        str(tmp_path / "cells.csv"),
        "--config",
        str(demo),
        "--table",
        number,
        "--out-dir",
        str(tmp_path / "tables"),
    ]
    assert tables.main(words) == 0
    names = [f"table{number}.{suffix}" for suffix in ("csv", "md", "tex")]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == names
    text = (tmp_path / "tables" / f"table{number}.md").read_text()
    assert "FGP" in text
    assert "only the pattern can be compared" in text


def test_command_names_what_is_wrong(tmp_path, capsys):
    demo = paper.FILE.parents[2] / "config" / "demo.yaml"
    words = ["--cells", str(tmp_path / "absent.csv"), "--config", str(demo), "--table", "1", "--out-dir", str(tmp_path / "out")]
    assert tables.main(words) == 1
    assert "absent.csv" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("tasks: [")
    assert tables.main([*words, "--config", str(tmp_path / "broken.yaml")]) == 1
    assert "broken.yaml: not valid YAML" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_markdown_escapes():
    table = tables.Table(9, "t", "remaining", (), ("FGP* stays, *this* and a|b [x] _y_ a_b do not",))
    assert "- FGP* stays, \\*this* and a\\|b \\[x\\] \\_y_ a_b do not" in table_formats.to_markdown(table)
