"""Each cell proves its provenance when it is collected: results of another configuration are refused. On files of a real run."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from fgp_workflow import cells
from real_run import CELL, CONFIG, DENSE, MACS, PATHS, TASK, Run, set_in

import fgp
from fgp import codehash
from fgp.cli import main
from fgp.files import read_sealed, write_sealed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("made"))
    run.all()
    return run.folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(made, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def edit(monkeypatch):
    """Let a file of the project have another meaning until the test ends."""
    meaning = codehash._meaning

    def edited(file):
        assert (ROOT / file).exists()
        monkeypatch.setattr(codehash, "_meaning", lambda path: meaning(path) + " edited" * (path == ROOT / file))
        codehash.of.cache_clear()

    yield edited
    monkeypatch.undo()
    codehash.of.cache_clear()


def refused(run, capsys, path, *words, flags=()):
    assert run.collect(*flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"collect: error: {run.folder}/{path}: no result of this configuration as it is now: "), error
    assert "run snakemake again, which makes what is missing or stale, with --force and this path" in error
    assert "delete" not in error
    for word in words:
        assert word in error, error
    return error


def test_the_cells_of_the_configuration_are_taken(run):
    assert run.collect() == 0
    table = cells.read(run.folder / "cells.csv")
    assert list(table["method"]) == ["dense", "l1", "slimming"]
    assert not table["accepted_code"].any()
    assert table["latency_b1_median_ms"].notna().all()
    assert run.collect("--accept-code") == 0
    assert not cells.read(run.folder / "cells.csv")["accepted_code"].any()


@pytest.mark.parametrize(
    ("key", "value", "path", "said"),
    [
        (
            "recipes/short/lr",
            0.2,
            CELL,
            "fgp finetune was run with other settings than this configuration has; asked for --lr 0.2",
        ),
        (
            "recipes/long/epochs",
            3,
            DENSE,
            "fgp train was run with other settings than this configuration has; asked for --epochs 3",
        ),
        ("scoring/images", 30, CELL, "fgp score was run with other settings than this configuration has; asked for --images 30;"),
        (
            f"tasks/{TASK}/tied",
            True,
            CELL,
            "fgp prune was run with other settings than this configuration has; asked for --tied;",
        ),
        (
            f"tasks/{TASK}/width",
            0.125,
            DENSE,
            "fgp train was run with other settings than this configuration has; asked for --wid",
        ),
        (
            "datasets/digits/train_limit",
            90,
            DENSE,
            "fgp data was run with other settings, or other files in the data root, than ",
        ),
        ("datasets/digits/train_limit", 90, DENSE, "this configuration has; asked for --train-limit 90; run snakemake"),
        ("datasets/digits/train_limit", None, DENSE, "other files in the data root, than this configuration has; run snakemake"),
        ("device", "auto", DENSE, "asked for --device auto"),
        (
            "latency/seconds",
            0.02,
            f"{TASK}/seed0",
            "fgp measure was run with other settings than this configuration has; asked for",
        ),
        ("latency/seconds", 0.02, f"{TASK}/seed0", "asked for --seconds 0.02; run"),
    ],
)
def test_a_result_of_other_settings_is_refused_by_stage_and_flag(run, capsys, key, value, path, said):
    run.configure(set_in(CONFIG, key, value))
    error = refused(run, capsys, f"{path}/{'latency' if path.endswith('seed0') else 'metrics'}.json", said)
    assert "accept_code" not in error
    assert run.collect("--accept-code") == 1


def test_an_option_of_a_methods_own_training(run, capsys):
    run.configure(set_in(CONFIG, f"tasks/{TASK}/options", {"slimming": {"strength": 0.01}}))
    refused(run, capsys, f"{TASK}/seed0/slimming/{MACS}/metrics.json", "fgp stage was run", "asked for --option strength=0.01;")


OTHER_CODE = {
    "fgp/data/digits.py": ("data", DENSE, {"dense", "l1", "slimming"}),
    "fgp/cli/train.py": ("train", DENSE, {"dense", "l1", "slimming"}),
    "fgp/cli/stage.py": ("stage", f"{TASK}/seed0/slimming/{MACS}", {"dense", "l1", "slimming"}),
    "baselines/l1.py": ("score", CELL, {"dense", "l1", "slimming"}),
    "fgp/cli/prune.py": ("prune", CELL, {"dense", "l1", "slimming"}),
    "fgp/cli/finetune.py": ("finetune", CELL, {"dense", "l1", "slimming"}),
}


@pytest.mark.parametrize("file", OTHER_CODE)
def test_a_result_of_other_code_is_refused_or_accepted_on_demand(run, capsys, edit, file):
    stage, path, methods = OTHER_CODE[file]
    edit(file)
    run.configure(CONFIG)
    said = f"fgp {stage} was run with other code than the present"
    refused(run, capsys, f"{path}/metrics.json", said, "or keep it, which every table then says: --config accept_code=true")
    assert run.collect("--accept-code") == 0
    table = cells.read(run.folder / "cells.csv")
    assert set(table["method"][table["accepted_code"]]) == methods
    assert table["accepted_commits"].notna().all()


def test_of_other_code_in_the_measurement_every_cell_tells(run, capsys, edit):
    edit("fgp/latency.py")
    run.configure(CONFIG)
    refused(run, capsys, f"{TASK}/seed0/latency.json", "fgp measure was run with other code than the present")
    assert run.collect("--accept-code") == 0
    assert cells.read(run.folder / "cells.csv")["accepted_code"].all()


def test_a_cell_of_a_stale_stage_under_a_present_key(run, capsys):
    """What Snakemake leaves if it is told to heed nothing but times of modification."""
    other = set_in(CONFIG, "scoring/images", 30)
    run.configure(other)
    run.finetune("l1")
    run.measure()
    refused(run, capsys, f"{CELL}/metrics.json", "fgp score was run with other settings", "asked for --images 30;")
    run.score("l1")
    run.prune("l1")
    run.finetune("l1")
    run.score("slimming")
    run.prune("slimming")
    run.finetune("slimming")
    run.measure()
    assert run.collect() == 0


def test_a_cell_of_a_stage_of_other_code_under_a_present_key(run, capsys, edit):
    edit("fgp/cli/prune.py")
    run.configure(CONFIG)
    for method in CONFIG["methods"]:
        run.finetune(method)
    run.measure()
    refused(run, capsys, f"{CELL}/metrics.json", "fgp prune was run with other code than the present", "accept_code=true")
    assert run.collect("--accept-code") == 0
    table = cells.read(run.folder / "cells.csv")
    assert set(table["method"][table["accepted_code"]]) == {"l1", "slimming"}


def _disturb(path):
    """Write other tensors into a weights file, under the same provenance, as another training by the same command leaves."""
    network, about = fgp.load(path), fgp.checkpoint.read_metadata(path)
    with torch.no_grad():
        next(network.parameters())[0] += 1e-3
    fgp.save(network, path, provenance=about["provenance"])
    return fgp.checkpoint.read_metadata(path)["digest"]


def test_a_dense_network_trained_anew_under_the_same_key(run, capsys):
    digest = _disturb(run.folder / DENSE / "model.safetensors")
    metrics = run.folder / DENSE / "metrics.json"
    value = read_sealed(metrics)
    old = value["provenance"]["digest"]
    write_sealed(metrics, value | {"provenance": value["provenance"] | {"digest": digest}})
    error = refused(run, capsys, f"{CELL}/metrics.json", "it was made from another result of fgp train than ")
    assert str(metrics) in error
    run.score("l1")
    run.prune("l1")
    run.finetune("l1")
    run.measure()
    assert run.collect() == 0
    assert digest != old


def test_data_prepared_anew_under_the_same_key(run, capsys):
    """Both the dense network and the sparse training read them: the second to be read is refused."""
    value = read_sealed(run.folder / f"{TASK}/seed0/slimming/{MACS}/metrics.json")
    (data,) = (stage for stage in value["provenance"]["stages"] if stage["command"].startswith("fgp data"))
    data["digest"] = "0" * 64
    write_sealed(run.folder / f"{TASK}/seed0/slimming/{MACS}/metrics.json", value)
    refused(run, capsys, f"{TASK}/seed0/slimming/{MACS}/metrics.json", "it was made from another result of fgp data than ")


@pytest.mark.parametrize("cell", [DENSE, CELL])
def test_a_latency_file_of_other_networks(run, capsys, cell):
    before = run.folder / "before"
    shutil.copytree(run.folder / cell, before)
    _disturb(run.folder / cell / "model.safetensors")
    run.measure()
    shutil.rmtree(run.folder / cell)
    before.rename(run.folder / cell)
    name = "/".join(cell.split("/")[2:])
    refused(run, capsys, f"{TASK}/seed0/latency.json", f"it measured another network {name} than the one that lies there")
    assert run.collect("--accept-code") == 1
    run.measure()
    assert run.collect() == 0


def test_a_latency_file_without_a_network(run, capsys):
    path = run.folder / f"{TASK}/seed0/latency.json"
    value = read_sealed(path)
    del value["provenance"]["networks"][f"l1/{MACS}"]
    write_sealed(path, value)
    refused(run, capsys, f"{TASK}/seed0/latency.json", f"it measured another network l1/{MACS}")


def _as(run, entries, *source):
    """Put the metrics of another cell where those of L1 lie, with other entries."""
    value = read_sealed(run.folder.joinpath(*source, "metrics.json"))
    write_sealed(run.folder / CELL / "metrics.json", value | entries)


def test_a_cell_of_another_method(run, capsys):
    _as(run, {"method": "l1"}, TASK, "seed0/slimming", MACS)
    refused(run, capsys, f"{CELL}/metrics.json", "fgp train was run with other settings than this configuration has")


@pytest.mark.parametrize(
    ("key", "value", "path", "entries"),
    [
        (f"tasks/{TASK}/budgets", {"half": 0.6}, f"{TASK}/seed0/l1/macs-0.6000", {"selection": "macs-0.6000"}),
        ("seeds", [1], f"{TASK}/seed1/l1/{MACS}", {"seed": 1}),
        ("tasks", {"other": CONFIG["tasks"][TASK]}, f"other/seed0/l1/{MACS}", {"task": "other"}),
    ],
)
def test_a_cell_of_another_selection_seed_or_task(run, capsys, key, value, path, entries):
    run.configure({**CONFIG, key: value} if "/" not in key else set_in(CONFIG, key, value))
    (run.folder / path).mkdir(parents=True)
    write_sealed(run.folder / path / "metrics.json", read_sealed(run.folder / CELL / "metrics.json") | entries)
    assert run.collect("--missing-ok") == 0
    refusal = f"left out: {run.folder / path}/metrics.json: no result of this configuration as it is now: fgp "
    assert refusal in capsys.readouterr().err


def test_a_cell_that_the_configuration_does_not_have(run, capsys):
    run.configure({**CONFIG, "methods": ["slimming"]})
    run.measure()
    assert run.collect() == 0
    extra = str(run.folder / CELL / "metrics.json")
    assert run.collect("--metrics", extra) == 1
    assert f"{extra}: no result of this configuration as it is now: this configuration has no cell {TASK} l1/{MACS}" in (
        capsys.readouterr().err
    )


def test_metrics_made_by_hand(run, capsys):
    words = ["--data", run.path(PATHS.data), "--weights", str(run.folder / CELL / "pruned.safetensors")]
    settings = shlex.split(run.settings.finetune(TASK, "l1", MACS))
    assert "FGP_KEY" not in os.environ
    out = ["--out", str(run.folder / CELL / "model.safetensors"), "--metrics", str(run.folder / CELL / "metrics.json")]
    assert main(["finetune", *words, *settings, "--seed", "0", "--device", "cpu", *out]) == 0
    for flags in ((), ("--accept-code",)):
        refused(run, capsys, f"{CELL}/metrics.json", "it was not made by this workflow: it has no key", flags=flags)


def test_a_tampered_accuracy_is_refused_by_the_seal(run, capsys):
    path = run.folder / CELL / "metrics.json"
    after = read_sealed(path)["after"]
    text = path.read_text()
    assert text.count(f'"after": {after}') == 1
    path.write_text(text.replace(f'"after": {after}', '"after": 99.5'))
    assert run.collect("--accept-code") == 1
    assert f"{path}: its content does not match its own checksum: it was edited or damaged" in capsys.readouterr().err
