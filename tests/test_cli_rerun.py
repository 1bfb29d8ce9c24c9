"""`fgp rerun`: the provenance of a cell suffices to rebuild it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fgp.cli import main
from fgp.files import read_sealed, write_sealed
from fgp.metrics import read_metrics

RECIPE = "--epochs 1 --batch-size 32 --lr 0.05 --crop-padding 1"
TAGS = "--tag task=toy --tag dataset=digits --tag method={method} --tag selection={selection}"
COMMON = "--seed 3 --device cpu"
DENSE, CELL = "run/dense/unpruned", "run/l1/macs-0.5"
COMMANDS = (
    "data --source digits --train-limit 100 --test-limit 60 --out run/data.safetensors",
    f"train --network vgg16 --width 0.0625 --data run/data.safetensors --out {DENSE}/model.safetensors "
    f"--metrics {DENSE}/metrics.json {TAGS.format(method='dense', selection='unpruned')} {COMMON} {RECIPE}",
    f"score --method l1 --data run/data.safetensors --weights {DENSE}/model.safetensors --out run/l1/scores.safetensors {COMMON}",
    f"plan --scores run/l1/scores.safetensors --weights {DENSE}/model.safetensors --data run/data.safetensors "
    f"--selection macs-0.5 --out {CELL}/plan.json",
    f"prune --weights {DENSE}/model.safetensors --plan {CELL}/plan.json --data run/data.safetensors "
    f"--out {CELL}/pruned.safetensors",
    f"finetune --weights {CELL}/pruned.safetensors --data run/data.safetensors "
    f"--out {CELL}/model.safetensors --curve {CELL}/curve.csv --metrics {CELL}/metrics.json "
    f"{TAGS.format(method='l1', selection='macs-0.5')} {COMMON} {RECIPE}",
)
SAME = ("after", "before", "macs", "params", "dense_macs", "dense_params", "kept", "channels", "epochs", "seed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which every stage of one cell ran."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    os.environ["FGP_THREADS"] = "1"
    try:
        for command in COMMANDS:
            assert main(shlex.split(command)) == 0
    finally:
        os.chdir(before)
        del os.environ["FGP_THREADS"]
    return folder


def rerun(capsys, *words):
    status = main(["rerun", *map(str, words)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def copy(path, folder, edit):
    value = read_sealed(path)
    edit(value["provenance"])
    changed = folder / path.name
    write_sealed(changed, value)
    return changed


@pytest.mark.slow
def test_the_printed_script_rebuilds_the_cell_in_another_folder(made, tmp_path, capsys):
    status, script, warnings = rerun(capsys, made / CELL / "metrics.json")
    assert (status, [line for line in warnings.splitlines() if "commit" not in line]) == (0, [])
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(["sh"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    old, new = (read_metrics(folder / CELL / "metrics.json") for folder in (made, tmp_path))
    assert {key: old[key] for key in SAME} == {key: new[key] for key in SAME}
    same = [(folder / CELL / name).read_text() for name in ("curve.csv", "plan.json") for folder in (made, tmp_path)]
    assert [line.rsplit(",", 1)[0] for line in same[0].splitlines()] == [line.rsplit(",", 1)[0] for line in same[1].splitlines()]
    assert json.loads(same[2])["plan"] == json.loads(same[3])["plan"]
    assert new["provenance"]["command"] == old["provenance"]["command"]


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        (f"{CELL}/metrics.json", [0, 1, 2, 3, 4, 5]),
        (f"{CELL}/model.safetensors", [0, 1, 2, 3, 4, 5]),
        (f"{CELL}/pruned.safetensors", [0, 1, 2, 3, 4]),
        (f"{CELL}/plan.json", [0, 1, 2, 3]),
        ("run/l1/scores.safetensors", [0, 1, 2]),
        (f"{DENSE}/metrics.json", [0, 1]),
        ("run/data.safetensors", [0]),
    ],
)
def test_every_file_tells_all_stages_that_led_to_it_in_order(made, capsys, file, stages):
    status, script, _ = rerun(capsys, made / file)
    assert status == 0
    lines = [shlex.split(line, comments=True) for line in script.splitlines()]
    assert [words for words in lines if words[:1] == ["fgp"]] == [["fgp", *shlex.split(COMMANDS[i])] for i in stages]


def test_commit_versions_hardware_and_threads_are_named(made, capsys):
    _, script, _ = rerun(capsys, made / CELL / "metrics.json")
    recorded = read_metrics(made / CELL / "metrics.json")["provenance"]
    comments = [line for line in script.splitlines() if line.startswith("# ")]
    for fact in (f"commit: {recorded['commit']}", f"torch {recorded['versions']['torch']}", recorded["hardware"]["cpu"]):
        assert any(fact in line for line in comments)
    assert "export FGP_THREADS=1" in script


@pytest.mark.parametrize(
    ("edit", "warning"),
    [
        (lambda recorded: recorded.update(commit="0" * 40), "commit: 0000"),
        (lambda recorded: recorded.update(dirty=True), "changes that were not committed"),
        (lambda recorded: recorded["versions"].update(torch="1.0"), "versions: torch: 1.0 when it was made, "),
        (lambda recorded: recorded["hardware"].update(cpu="Abacus"), "hardware: cpu: Abacus when it was made, "),
        (lambda recorded: recorded["hardware"].update(device="cuda:99", gpu="H999"), "hardware: gpu: H999 when it was made, "),
    ],
)
def test_what_differs_here_is_warned_of(made, tmp_path, capsys, edit, warning):
    status, _, warnings = rerun(capsys, copy(made / CELL / "metrics.json", tmp_path, edit))
    assert status == 0
    assert warning in warnings


def _without_stage(recorded):
    recorded["stages"][1] = {"command": None, "file": "elsewhere.safetensors"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_without_stage, "elsewhere.safetensors: does not say how it was made"),
        (lambda recorded: recorded.update(command="make cells"), "metrics.json: does not say how it was made"),
        (lambda recorded: recorded.update(command="fgp 'train"), "metrics.json: does not say how it was made"),
        (lambda recorded: recorded.clear(), "metrics.json: does not say how it was made"),
    ],
)
def test_a_broken_chain_is_refused(made, tmp_path, capsys, edit, message):
    status, script, error = rerun(capsys, copy(made / CELL / "metrics.json", tmp_path, edit))
    assert (status, script) == (1, "")
    assert message in error


def test_a_network_without_provenance_is_named(made, tmp_path, capsys, monkeypatch):
    import fgp

    monkeypatch.chdir(tmp_path)
    fgp.save(fgp.load(made / DENSE / "model.safetensors"), "own.safetensors")
    data, words = made / "run/data.safetensors", "--method l1 --weights own.safetensors --out scores.safetensors"
    assert main(shlex.split(f"score {words} --data {data} {COMMON}")) == 0
    status, _, error = rerun(capsys, "scores.safetensors")
    assert status == 1
    assert "own.safetensors: does not say how it was made" in error


def test_a_file_cannot_slip_a_command_into_the_script(made, tmp_path, capsys):
    marker = tmp_path / "slipped"

    def edit(recorded):
        recorded["command"] = f"fgp train; touch {marker}"
        recorded["commit"] = f"0\ntouch {marker}"
        recorded["threads"] = f"1; touch {marker}"
        recorded["stages"] = []

    _, script, _ = rerun(capsys, copy(made / CELL / "metrics.json", tmp_path, edit))
    subprocess.run(["sh"], input=f"fgp() {{ :; }}\n{script}", text=True, check=True)
    assert not marker.exists()


@pytest.mark.slow
def test_run_rebuilds_here_and_overwrites_nothing(made, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["rerun", str(made / DENSE / "metrics.json"), "--run"]) == 0
    old, new = (read_metrics(folder / DENSE / "metrics.json") for folder in (made, tmp_path))
    assert {key: old[key] for key in SAME} == {key: new[key] for key in SAME}
    assert main(["rerun", str(made / DENSE / "metrics.json"), "--run"]) == 1
    assert "run/data.safetensors: exists" in capfd.readouterr().err


def test_a_subcommand_that_fails_ends_run(made, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = copy(made / CELL / "plan.json", tmp_path, lambda recorded: recorded.update(command="fgp plan --unknown", stages=[]))
    assert main(["rerun", str(file), "--run"]) == 1
    assert "fgp plan: ended with status 2" in capfd.readouterr().err
