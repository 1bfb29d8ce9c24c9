"""Trainings that are really killed, at many random moments, and end as if nothing had been."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fgp
from fgp import codehash, provenance
from fgp.cli import main
from fgp.files import read_json
from fgp.train.resume import Checkpoint, Claim

pytestmark = pytest.mark.slow

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("test_resume_kills", "torch._dynamo", "fgp.train.loop", "fgp.train.result", "fgp.evaluate", "fgp.checkpoint"),
        *("fgp.models.vgg", "baselines.group_fisher", "fgp.surgery"),
    ]
)
"""Where forks start from: a process that has imported everything and run nothing, so that a training starts at once."""

NETWORK = ["--network", "vgg16", "--width", "0.0625"]
RECIPE = ["--batch-size", "50", "--lr", "0.02", "--momentum", "0.9", "--crop-padding", "2", "--schedule", "cosine"]
TRAININGS = {
    "dense": ["train", *NETWORK, "--epochs", "16", "--metrics", "metrics.json"],
    "sparse": ["stage", "--method", "slimming", *NETWORK, "--epochs", "16", "--metrics", "metrics.json"],
    "gradual": [
        *("stage", "--method", "group-fisher", "--option", "interval=2", "--option", "channels=3", "--epochs", "40"),
        *("--weights", "dense.safetensors", "--selection", "macs-0.4", "--plan", "plan.json"),
    ],
    "fine-tuning": ["finetune", "--weights", "pruned.safetensors", "--epochs", "16", "--metrics", "metrics.json"],
}
KILLS = 8
CHANGING = {"finished", "seconds", "score_seconds", "train_seconds", "commit", "dirty", "seal"}
CHECKPOINTS = ["model.safetensors.checkpoint", "model.safetensors.checkpoint.previous"]


def work(folder, words):
    """Run a command line in a folder; what it says is appended to a file there."""
    multiprocessing.set_start_method("fork", force=True)  # the lock of tqdm then has no name that a kill would leave behind
    os.chdir(folder)
    sys.stderr = open("said.txt", "a", buffering=1)  # noqa: SIM115 (until the process is killed)
    sys.exit(main(words))


def command(kind):
    out = ["--data", "digits.safetensors", "--out", "model.safetensors", "--curve", "curve.csv", "--seed", "3"]
    return [*TRAININGS[kind], *out, *RECIPE, "--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0"]


def fork(folder, kind):
    process = SERVER.Process(target=work, args=(folder, command(kind)))
    process.start()
    return process


def start(folder, kind):
    """Start the real command line in a fresh interpreter."""
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen([sys.executable, "-m", "fgp", *command(kind)], cwd=folder, stderr=said)


def said(folder):
    return (folder / "said.txt").read_text()


@pytest.fixture(scope="module")
def inputs(digits, pruned, tmp_path_factory):
    """A folder with the inputs of every training."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(digits, folder / "digits.safetensors")
    shutil.copy(pruned, folder / "pruned.safetensors")
    torch.manual_seed(0)
    fgp.save(fgp.models.build("vgg16", 10, 1 / 16), folder / "dense.safetensors", provenance={})
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """Return, by kind of training, the folder of a run without interruption and the seconds that it took."""
    done = {}

    def undisturbed(kind):
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind) / "run"
            shutil.copytree(inputs, folder)
            started = time.monotonic()
            process = fork(folder, kind)
            process.join()
            assert process.exitcode == 0, said(folder)
            done[kind] = folder, time.monotonic() - started
        return done[kind]

    return undisturbed


def results(folder):
    """Return everything that a training wrote, without times and what a kill left of a file aside."""
    found = {}
    for path in sorted(set(folder.iterdir()) - {folder / "said.txt", *folder.glob(".*.part")}):
        if path.is_dir():
            continue
        if path.suffix == ".safetensors":
            found[path.name] = {name: value.numpy().tobytes() for name, value in load_file(path).items()}
            found[f"{path.name} provenance"] = untimed(provenance.read(path))
        elif path.suffix == ".csv":
            found[path.name] = [row[:-1] for row in csv.reader(path.open())]
        elif path.suffix == ".json":
            found[path.name] = untimed(read_json(path))
    return found


def untimed(value):
    if isinstance(value, dict):
        return {key: untimed(entry) for key, entry in value.items() if key not in CHANGING}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value


def assert_same(folder, expected):
    found, wanted = results(folder), results(expected)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name] == value, name


def until(happened, process=None, seconds=120):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        time.sleep(0.003)
        assert time.monotonic() < end
        assert process is None or running(process)
    return found


def running(process):
    """Tell whether a process of `fork` or `start` runs."""
    return (process.poll() if isinstance(process, subprocess.Popen) else process.exitcode) is None


def wait_for_saves(folder, count, process):
    """Wait until so many checkpoints more are saved, or the process has ended."""
    for _ in range(count):
        before = saved_at(folder)
        until(lambda before=before: saved_at(folder) not in (None, before) or not running(process))


def saved_at(folder):
    with contextlib.suppress(FileNotFoundError):
        return (folder / CHECKPOINTS[0]).stat().st_mtime_ns


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_killed_at_random_moments_ends_as_if_it_had_not_been(kind, inputs, undisturbed, tmp_path):
    expected, seconds = undisturbed(kind)
    folder, moments, kills = tmp_path / "run", random.Random(kind), 0
    shutil.copytree(inputs, folder)
    while kills < KILLS:
        process, saves = fork(folder, kind), moments.choice([0, 1, 2, 3])
        wait_for_saves(folder, saves, process)
        process.join(moments.uniform(0, 0.1 if saves else 0.4) * seconds)
        process.kill()
        process.join()
        if process.exitcode == 0:  # too late: once more from the beginning
            assert_same(folder, expected)
            (folder / "model.safetensors").unlink()
        kills += process.exitcode == -signal.SIGKILL
    process = fork(folder, kind)
    process.join()
    assert process.exitcode == 0, said(folder)
    assert "goes on after epoch" in said(folder)
    assert_same(folder, expected)


def test_damaged_checkpoints(inputs, undisturbed, tmp_path):
    expected, _ = undisturbed("dense")
    folder = tmp_path / "run"
    shutil.copytree(inputs, folder)
    for damaged, goes_on in ((CHECKPOINTS[:1], True), (CHECKPOINTS, False)):
        process = fork(folder, "dense")
        wait_for_saves(folder, 4, process)
        process.kill()
        process.join()
        previous = len(torch.load(folder / CHECKPOINTS[1])["history"]["losses"])
        for name in damaged:
            os.truncate(folder / name, (folder / name).stat().st_size // 2)
        (folder / "said.txt").unlink()
        process = fork(folder, "dense")
        process.join()
        assert process.exitcode == 0, said(folder)
        assert (f"goes on after epoch {previous}\n" in said(folder)) == goes_on == ("goes on" in said(folder))
        assert_same(folder, expected)
        for name in ("model.safetensors", "curve.csv", "metrics.json"):
            (folder / name).unlink()


def save_for_ever(folder):
    """Save checkpoints one after another, each a large tensor full of its number."""
    with Claim(folder / "model.safetensors") as claim:
        checkpoint = Checkpoint(folder / "model.safetensors", "k", 0, claim)
        number = (checkpoint.load() or {"number": 0})["number"]
        while True:
            number += 1
            checkpoint.save({"number": number, "tensor": torch.full((2_000_000,), float(number))})


def test_processes_killed_while_they_write_a_checkpoint(tmp_path):
    moments, cut, last, load = random.Random(1), 0, 0, Checkpoint(tmp_path / "model.safetensors", "k").load
    for _ in range(20):
        process = SERVER.Process(target=save_for_ever, args=(tmp_path,))
        process.start()
        wait_for_saves(tmp_path, 1, process)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        cut += bool(list(tmp_path.glob(".*.part")))
        state = load()
        assert state["number"] > last
        assert (state["tensor"] == state["number"]).all()
        last = state["number"]
    assert cut > 3


def test_fresh_interpreters_killed(inputs, undisturbed, tmp_path):
    expected, _ = undisturbed("gradual")
    folder, moments = tmp_path / "run", random.Random(0)
    shutil.copytree(inputs, folder)
    for number in range(2):
        process = start(folder, "gradual")
        wait_for_saves(folder, 1, process)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert said(folder).count("goes on after epoch") == number
    process = start(folder, "gradual")
    assert process.wait() == 0, said(folder)
    assert said(folder).count("goes on after epoch") == 2
    assert_same(folder, expected)


def test_the_second_of_two_trainers_takes_over(inputs, undisturbed, tmp_path):
    expected, _ = undisturbed("gradual")
    folder = tmp_path / "run"
    shutil.copytree(inputs, folder)
    first = start(folder, "gradual")
    wait_for_saves(folder, 1, first)
    second = fork(folder, "gradual")
    second.join()
    assert second.exitcode == 0, said(folder)
    assert first.wait() == 1
    assert "model.safetensors: another process has taken over this training" in said(folder)
    assert "goes on after epoch" in said(folder)
    assert_same(folder, expected)


REPORT = """
import inspect, json, sys, threading
from pathlib import Path

called = set()


def see(frame, event, argument):
    if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function, not the body of a module or a class
        called.add(frame.f_code.co_filename)


from fgp.cli import main

sys.setprofile(see)
threading.setprofile(see)
status = main(sys.argv[1:])
sys.setprofile(None)
loaded = [module.__file__ for module in sys.modules.values() if module.__name__.startswith(("fgp", "baselines"))]
Path("files.json").write_text(json.dumps([loaded, sorted(called)]))
sys.exit(status)
"""


def test_the_key_covers_all_code_that_a_training_runs(inputs, tmp_path, monkeypatch):
    """Every file of this project is hashed in which a real run calls a function: nothing is called that the search does not see.

    What it loads besides is what the package `fgp.scoring` offers to users.
    """

    def hashed(*modules):
        files = set()
        with monkeypatch.context() as patch:
            patch.setattr(codehash, "_meaning", lambda file: files.add(str(file)) or "")
            codehash.of.__wrapped__(*modules)
        return files

    shutil.copytree(inputs, tmp_path / "run")
    subprocess.run([sys.executable, "-c", REPORT, *command("gradual")], cwd=tmp_path / "run", check=True)
    loaded, called = (set(files) for files in json.loads((tmp_path / "run/files.json").read_text()))
    key = hashed("fgp.cli.stage", "fgp.models.vgg", "baselines.group_fisher")
    package, root = Path(fgp.__file__).parent, str(codehash.ROOT)
    assert {str(package / "train/loop.py"), str(package / "models/vgg.py")} <= called & loaded
    assert {file for file in called if file.startswith((f"{root}/fgp/", f"{root}/baselines/"))} <= key
    assert loaded <= key | hashed("fgp.scoring")
