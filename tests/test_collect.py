import re
import sys
import time
import types

import pandas as pd
import pytest
import yaml
from fgp_workflow import cells, collect

from fgp.errors import FgpError
from fgp.files import read_sealed, write_sealed


def metrics(**changes):
    value = {
        **{"task": "digits-vgg16", "dataset": "digits32", "network": "vgg16", "width": 0.25, "seed": 3, "method": "fgp"},
        **{"selection": "cumulative-0.40", "metric": "top1", "before": 41.5, "after": 97.25, "macs": 250, "params": 30},
        **{"dense_macs": 1000, "dense_params": 60, "kept": {"a": 3, "b": 5}, "channels": {"a": 8, "b": 8}},
        **{"score_seconds": 0.5, "train_seconds": 4.0, "epochs": 3},
        "provenance": {
            **{"command": "fgp finetune", "recipe": {}, "code": "abc", "key": "k", "digest": "d"},
            **{"commit": "0123", "dirty": True, "versions": {}},
            **{
                "hardware": {"cpu": "Some CPU", "cores": 2, "device": "cpu"},
                "threads": 1,
                "finished": "2026-01-02T03:04:05+00:00",
            },
        },
    }
    value.update(changes)
    return value


def put(root, value=None, where=None):
    value = value or metrics()
    folder = where or "{task}/seed{seed}/{method}/{selection}".format(**value)
    path = root / folder / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, value)
    return path


def put_latency(root, networks, task="digits-vgg16", seed=3):
    path = root / task / f"seed{seed}" / "latency.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {"hardware": {"cpu": "Other CPU", "gpu": "Some GPU", "device": "cuda"}}
    write_sealed(path, {"latency": networks, "threads": 1, "provenance": provenance})
    return path


def numbers(median=2.0):
    return {"median_ms": median, "q1_ms": 1.5, "q3_ms": 2.5, "images_per_second": 1000 / median}


def test_units_and_shares(tmp_path):
    row = collect.collect([put(tmp_path)]).loc[0]
    assert (row["before_percent"], row["after_percent"]) == (41.5, 97.25)
    assert (row["macs_remaining_percent"], row["params_remaining_percent"], row["kept_percent"]) == (25.0, 50.0, 50.0)
    assert (row["commit"], row["dirty"], row["hardware"]) == ("0123", True, "Some CPU, cpu, threads 1")
    assert row["finished"] == "2026-01-02T03:04:05+00:00"
    assert not row["accepted_code"]
    assert pd.isna(row["accepted_commits"])


def test_latency_is_joined_and_columns_sorted_by_batch_size(tmp_path):
    networks = {"fgp/cumulative-0.40": {"128": numbers(8.0), "1": numbers()}, "l1/gone": {"1": numbers()}}
    table = collect.collect([put(tmp_path)], [put_latency(tmp_path, networks)])
    assert len(table) == 1
    assert table.loc[0, "latency_b1_median_ms"] == 2.0
    assert table.loc[0, "latency_b128_images_per_second"] == 125.0
    assert table.loc[0, "latency_hardware"] == "Other CPU, Some GPU, threads 1"
    assert [name for name in table if name.endswith("median_ms")] == ["latency_b1_median_ms", "latency_b128_median_ms"]


def test_csv_reads_back_what_was_collected(tmp_path):
    paths = [put(tmp_path), put(tmp_path, metrics(method="dense", selection="unpruned", before=None, score_seconds=None))]
    collected = collect.collect(paths)
    cells.write(collected, tmp_path / "cells.csv")
    pd.testing.assert_frame_equal(cells.read(tmp_path / "cells.csv"), collected)
    assert list(collected["method"]) == ["dense", "fgp"]
    assert pd.isna(collected.loc[0, "before_percent"])


@pytest.mark.parametrize(
    "where",
    [
        "digits-vgg16/seed03/fgp/cumulative-0.40",
        "digits-vgg16/seed3/fgp/cumulative-0.35",
        "digits-vgg16/seed3/l1/cumulative-0.40",
        "digits-vgg16/seed4/fgp/cumulative-0.40",
        "digits-vgg16/3/fgp/cumulative-0.40",
        "other/seed3/fgp/cumulative-0.40",
    ],
)
def test_cell_that_contradicts_its_path(tmp_path, where):
    path = put(tmp_path, where=where)
    with pytest.raises(FgpError, match=r"content belongs to digits-vgg16/seed3/fgp/cumulative-0\.40") as caught:
        collect.cell(path)
    assert "delete" not in str(caught.value)


def test_duplicate_cell(tmp_path):
    paths = [put(tmp_path / "a"), put(tmp_path / "b")]
    with pytest.raises(FgpError, match="same cell as"):
        collect.collect(paths)


@pytest.mark.parametrize("key", list(metrics()))
def test_missing_key_is_named(tmp_path, key):
    value = metrics()
    del value[key]
    path = put(tmp_path, value, where="digits-vgg16/seed3/fgp/cumulative-0.40")
    with pytest.raises(FgpError, match=rf"metrics\.json: {key}: missing"):
        collect.cell(path)


@pytest.mark.parametrize(
    ("key", "value"), [("after", None), ("after", "97"), ("macs", 0), ("kept", {"a": 3}), ("seed", True), ("epochs", 1 << 63)]
)
def test_wrong_value_is_named(tmp_path, key, value):
    path = put(tmp_path, metrics(**{key: value}), where="digits-vgg16/seed3/fgp/cumulative-0.40")
    with pytest.raises(FgpError, match=key):
        collect.cell(path)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"fgp": {"1": numbers()}}, "latency.fgp: expected <method>/<selection>"),
        ({"fgp/x": {"one": numbers()}}, r"latency.fgp/x.one"),
        ({"fgp/x": {"1": {"median_ms": 2.0}}}, r"latency.fgp/x.1.q1_ms: expected a number, found None"),
        ({"fgp/x": {"1": {**numbers(), "q3_ms": "fast"}}}, "q3_ms: expected a number, found 'fast'"),
        ({"fgp/x": 3}, "latency.json: key fgp/x"),
        ([], "key latency"),
    ],
)
def test_wrong_latency_is_named(tmp_path, networks, message):
    path = put_latency(tmp_path, networks)
    with pytest.raises(FgpError, match=message):
        collect.latencies(path)


def test_latency_measured_twice_or_misplaced(tmp_path):
    networks = {"fgp/x": {"1": numbers()}}
    paths = [put_latency(tmp_path / "a", networks), put_latency(tmp_path / "b", networks)]
    with pytest.raises(FgpError, match="also measured"):
        collect.collect([put(tmp_path)], paths)
    misplaced = tmp_path / "latency.json"
    misplaced.write_text(paths[0].read_text())
    with pytest.raises(FgpError, match="expected a path"):
        collect.latencies(misplaced)


class FakeProof:
    """Accepts what `OTHER` names as made by other code, refuses what `WRONG` names."""

    OTHER, WRONG = (), ()

    def __init__(self, experiment, accept_code):
        self.run, self.accept_code = experiment.config.run, accept_code

    def check_cell(self, path, metrics):
        return self._check(path, f"{metrics['method']}/{metrics['selection']}")

    def check_latency(self, path, content):
        assert content["latency"]
        return self._check(path, "latency")

    def _check(self, path, name):
        if name in self.WRONG or (name in self.OTHER and not self.accept_code):
            raise FgpError(f"{path}: not of {self.run}; run snakemake again")
        return name in self.OTHER


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of one task, seed 3, with its dense network, FGP and latencies; the words that collect it."""
    monkeypatch.setitem(sys.modules, "fgp_workflow.proof", types.SimpleNamespace(Proof=FakeProof))
    monkeypatch.setattr(FakeProof, "OTHER", ())
    monkeypatch.setattr(FakeProof, "WRONG", ())
    task = {"dataset": "digits", "network": "vgg16", "recipe": "short", "finetune": "short", "budgets": {"half": 0.5}}
    config = {
        "run": "x",
        "seeds": [3],
        "datasets": {"digits": {"source": "digits"}},
        "recipes": {"short": {"epochs": 1, "lr": 0.1}},
        "tasks": {"digits-vgg16": task},
        "methods": ["fgp"],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    put(tmp_path, metrics(method="dense", selection="unpruned"))
    put(tmp_path, metrics(selection="macs-0.5000"))
    put_latency(tmp_path, {"fgp/macs-0.5000": {"1": numbers()}, "dense/unpruned": {"1": numbers()}})
    return tmp_path


def collected(run, *flags):
    words = ["--config", str(run / "config.yaml"), "--out", str(run / "cells.csv"), *flags]
    return collect.main(words), run / "cells.csv"


def test_command_collects_the_cells_of_a_configuration(run):
    status, path = collected(run)
    assert status == 0
    table = cells.read(path)
    assert list(table["method"]) == ["dense", "fgp"]
    assert list(table["latency_b1_median_ms"]) == [2.0, 2.0]
    assert not table["accepted_code"].any()


@pytest.mark.parametrize("name", ["dense/unpruned/metrics.json", "latency.json"])
def test_command_names_a_missing_file(run, name, capsys):
    (run / "digits-vgg16/seed3" / name).unlink()
    status, path = collected(run)
    assert (status, path.exists()) == (1, False)
    assert f"digits-vgg16/seed3/{name}" in capsys.readouterr().err
    status, path = collected(run, "--missing-ok")
    assert status == 0
    assert len(cells.read(path)) == (1 if "metrics" in name else 2)
    assert re.match(rf"left out: \S+{name}", capsys.readouterr().err)


@pytest.mark.parametrize("wrong", ["dense/unpruned", "latency"])
def test_what_the_proof_refuses_is_not_collected(run, wrong, monkeypatch, capsys):
    monkeypatch.setattr(FakeProof, "WRONG", (wrong,))
    assert collected(run)[0] == 1
    assert "not of x; run snakemake again" in capsys.readouterr().err


def commits(path):
    table = cells.read(path)
    return dict(zip(table["method"], zip(table["accepted_code"], table["accepted_commits"].fillna(""), strict=True), strict=True))


def test_other_code_is_accepted_on_demand_and_named(run, monkeypatch, capsys):
    monkeypatch.setattr(FakeProof, "OTHER", ("fgp/macs-0.5000",))
    assert collected(run)[0] == 1
    assert "fgp/macs-0.5000/metrics.json: not of x" in capsys.readouterr().err
    status, path = collected(run, "--accept-code")
    assert status == 0
    assert commits(path) == {"dense": (False, ""), "fgp": (True, "0123-dirty")}


def test_latency_of_other_code_counts_for_every_cell_that_it_measures(run, monkeypatch):
    monkeypatch.setattr(FakeProof, "OTHER", ("fgp/macs-0.5000", "latency"))
    path = run / "digits-vgg16/seed3/latency.json"
    content = read_sealed(path)
    content["provenance"] |= {"commit": "89abcdef0123456789", "dirty": False}
    write_sealed(path, content)
    status, path = collected(run, "--accept-code")
    assert status == 0
    assert commits(path) == {"dense": (True, "89abcdef01"), "fgp": (True, "0123-dirty 89abcdef01")}


def test_accept_code_needs_a_configuration(tmp_path, capsys):
    with pytest.raises(SystemExit):
        collect.main(["--metrics", "x", "--accept-code", "--out", str(tmp_path / "cells.csv")])
    assert "--accept-code: only with --config" in capsys.readouterr().err


def test_command_needs_something_to_collect(tmp_path, capsys):
    assert collect.main(["--out", str(tmp_path / "cells.csv")]) == 1
    assert "--config" in capsys.readouterr().err


def test_error_leaves_the_old_file(tmp_path):
    out = tmp_path / "cells.csv"
    out.write_text("old")
    path = put(tmp_path, where="digits-vgg16/seed3/fgp/other")
    assert collect.main(["--metrics", str(path), "--out", str(out)]) == 1
    assert out.read_text() == "old"


def test_hundreds_of_files_are_quick(tmp_path):
    paths = [put(tmp_path, metrics(seed=seed, selection=f"macs-0.{i}")) for seed in range(10) for i in range(50)]
    start = time.perf_counter()
    assert len(collect.collect(paths)) == 500
    assert time.perf_counter() - start < 5
