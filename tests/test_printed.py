"""The printed numbers: consistent with one another where no mark says otherwise."""

import pytest
from fgp_workflow import paper
from fgp_workflow.inputs import read_yaml


@pytest.fixture(scope="module")
def printed():
    return read_yaml(paper.FILE)


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
