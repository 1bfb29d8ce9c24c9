"""cells.csv as a table, and statistics over seeds."""

import math
import re

import pandas as pd
import pytest
from fgp_workflow import cells
from made_up import experiment, row, table, task

from fgp.errors import FgpError

ROWS = [
    row("a", "fgp/macs-0.5000", 1, 97.25, before_percent=0.1 + 0.2, macs=(1 << 63) - 1, commit="0123", dirty=True),
    row("a", "dense/unpruned", 0, 99.0, latency_b128_median_ms=8.0, latency_b1_median_ms=2.0, hardware='CPU "x", 2 cores'),
]


def written(folder, rows=ROWS):
    cells.write(table(rows), folder / "cells.csv")
    return folder / "cells.csv"


def test_what_is_written_is_read_back_sorted(tmp_path):
    back = cells.read(written(tmp_path))
    pd.testing.assert_frame_equal(back, table(ROWS))
    assert list(back["method"]) == ["dense", "fgp"]
    assert back.loc[1, "before_percent"] == 0.1 + 0.2
    assert back.loc[1, "macs"] == (1 << 63) - 1
    assert back["dirty"].to_list() == [pd.NA, True]
    assert back.loc[0, "hardware"] == 'CPU "x", 2 cores'
    assert pd.isna(back.loc[1, "hardware"])


def test_the_file_is_plain(tmp_path):
    header, dense, fgp = written(tmp_path).read_text().splitlines()
    assert header.startswith("task,dataset,network,width,seed,method,selection,metric,before_percent,after_percent,macs,params,")
    assert re.findall(r"latency_b\d+_median_ms", header) == ["latency_b1_median_ms", "latency_b128_median_ms"]
    assert dense.startswith("a,digits32,vgg16,1.0,0,dense,unpruned,top1,,99.0,100,100,")
    assert fgp.startswith("a,digits32,vgg16,1.0,1,fgp,macs-0.5000,top1,0.30000000000000004,97.25,9223372036854775807,100,")
    assert ",0123,True," in fgp


def test_batch_sizes_by_the_columns():
    columns = ["latency_b8_q1_ms", "latency_b128_images_per_second", "latency_hardware", "latency_b1x_q1_ms", "macs"]
    assert cells.batch_sizes(columns) == [8, 128]
    assert cells.latency_column(8, "q1_ms") == columns[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("after_percent", "after"), "lacks the columns after_percent"),
        (lambda text: text.replace("97.25", "high"), "column after_percent: 'high' is no number"),
        (lambda text: text.replace("97.25", ""), "column after_percent: a field is empty"),
        (lambda text: text.replace("97.25", "inf"), "column after_percent: 'inf' is no number"),
        (lambda text: text.replace("97.25", "1e400"), "column after_percent: '1e400' is no number"),
        (lambda text: text.replace(str((1 << 63) - 1), str(1 << 63)), f"column macs: '{1 << 63}' is no whole number"),
        (lambda text: text.replace(str((1 << 63) - 1), "0.5"), "column macs: '0.5' is no whole number"),
        (lambda text: text.replace("0123,True", "0123,yes"), "column dirty: 'yes' is no True or False"),
        (lambda text: text + text.splitlines()[1] + "\n", "task=a seed=0 method=dense selection=unpruned occurs twice"),
        (lambda text: text.strip() + ",surplus\n", "not a table of cells"),
        (lambda text: text.replace("\n", ",surplus\n").replace(",surplus", "", 1), "more or fewer fields|more fields"),
        (lambda text: text[: text.rindex(",97.25")] + "\n", "more or fewer fields"),
        (lambda text: text.replace("latency_b1_q1_ms", "latency_b1_q3_ms"), "a column stands twice"),
        (lambda text: "", "not a table of cells"),
        (lambda text: "a\0b\n", "cells.csv"),
    ],
)
def test_damaged_file(tmp_path, edit, message):
    path = written(tmp_path)
    path.write_text(edit(path.read_text()))
    with pytest.raises(FgpError, match=message):
        cells.read(path)


def test_absent_file(tmp_path):
    with pytest.raises(FgpError, match="no such file"):
        cells.read(tmp_path / "cells.csv")


def test_a_file_without_cells(tmp_path):
    back = cells.read(written(tmp_path, []))
    assert len(back) == 0
    assert cells.over_seeds(cells.by_seed(back, [("a", "fgp", "x")])).loc[0, "count"] == 0


def test_statistics_by_hand():
    values = {"one": [1.0, 2.0, 6.0], "two": [5.0]}
    rows = [row("a", f"{name}/x", seed, value) for name, of in values.items() for seed, value in enumerate(of)]
    found = cells.over_seeds(cells.by_seed(table(rows), [("a", name, "x") for name in ("one", "two", "none")]))
    assert list(found["mean"][:2]) == [3.0, 5.0]
    assert list(found["count"]) == [3, 1, 0]
    assert found.loc[0, "std"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert pd.isna(found.loc[1, "std"])
    assert pd.isna(found.loc[2, "mean"])


def test_differences_are_over_shared_seeds():
    ours, theirs = {0: 5.0, 1: 7.0, 9: 100.0}, {0: 4.0, 1: 4.0, 3: 0.0}
    rows = [row("a", f"{name}/x", seed, value) for name, of in (("o", ours), ("t", theirs)) for seed, value in of.items()]
    of = cells.by_seed(table(rows), [("a", "o", "x"), ("a", "t", "x"), ("a", "t", "x")])
    found = cells.over_seeds(of[[0]] - of[[1]].set_axis([0], axis=1))
    assert (found.loc[0, "mean"], found.loc[0, "count"]) == (2.0, 2)
    assert found.loc[0, "std"] == pytest.approx(math.sqrt(2))


def test_remarks_count_every_seed():
    asking = experiment(
        datasets={"digits32": {"source": "digits"}},
        tasks={"a": task("digits32", "vgg16", seeds=[0]), "b": task("digits32", "vgg16")},
        methods=[],
    )
    wanted = cells.asked(asking, [("a", "dense", "unpruned"), ("b", "dense", "unpruned"), ("b", "dense", "unpruned")])
    assert len(wanted) == 3
    rows = [row("a", "dense/unpruned", 0, 9.0), row("b", "dense/unpruned", 1, 9.0), row("b", "fgp/x", 1, 9.0)]
    assert cells.remarks(table(rows), wanted) == ("incomplete: 1 of 3 cells missing",)
    rows.append(row("b", "dense/unpruned", 0, 9.0, accepted_code=True, accepted_commits="bbb aaa"))
    rows[2] |= {"accepted_code": True, "accepted_commits": "not-asked-for"}
    said = "1 of 3 cells were made by other code than the present, or from results of such, and accepted by accept_code: aaa, bbb"
    assert cells.remarks(table(rows), wanted) == (said,)
