"""Two runs in one results folder, by the installed Snakemake on a toy workflow in two checkouts with a linked results/."""

import os
import re
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from fgp_workflow import run_lock

SNAKEFILE = """
onstart:
    from pathlib import Path
    from fgp_workflow import run_lock
    run_lock.hold(workflow, Path("results/toy"))

rule all:
    input: "results/toy/network", "results/toy/end"

rule train:
    output: "results/toy/network"
    shell: "pwd > {output}"

rule wait:
    input: "results/toy/network"
    output: "results/toy/end"
    shell: "until [ -e results/go ]; do sleep 0.1; done; touch {output}"
"""
SETTINGS = SimpleNamespace(execution_settings=SimpleNamespace(lock=True))


class Toy:
    def __init__(self, folder):
        self.checkouts = [folder / "first", folder / "second"]
        self.shared = folder / "shared"
        self.shared.mkdir()
        for checkout in self.checkouts:
            checkout.mkdir()
            (checkout / "Snakefile").write_text(SNAKEFILE)
            (checkout / "results").symlink_to(self.shared)
        self.network = self.shared / "toy/network"

    def start(self, checkout, *words):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
        return subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, checkout, *words):
        with self.start(checkout, *words) as process:
            shown, _ = process.communicate(timeout=120)
        return process.returncode, shown


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


@pytest.fixture
def running(toy):
    """A run in the first checkout that has made the network and waits."""
    process = toy.start(toy.checkouts[0])
    while not toy.network.exists() and process.poll() is None:
        time.sleep(0.1)
    yield process
    (toy.shared / "go").touch()
    process.communicate(timeout=120)


def test_a_second_run_is_refused_and_the_first_keeps_its_outputs(toy, running):
    first, second = toy.checkouts
    made = toy.network.stat().st_mtime_ns
    assert toy.run(first, "--unlock")[0] == 0
    for checkout in (first, second):
        status, shown = toy.run(checkout, "--forceall")
        assert status == 1
        who = rf"process {running.pid} on {re.escape(socket.gethostname())}, started \d{{4}}-.* in {re.escape(str(first))}\)"
        assert re.search(rf"results/toy: another run is at work in this folder \({who}", " ".join(shown.split())), shown
    assert toy.network.stat().st_mtime_ns == made
    (toy.shared / "go").touch()
    running.communicate(timeout=120)
    assert running.returncode == 0
    assert toy.network.read_text().strip() == str(first)
    assert toy.run(second, "--forceall")[0] == 0
    assert toy.network.read_text().strip() == str(second)


def test_what_makes_nothing_and_nolock_pass(toy, running):
    second = toy.checkouts[1]
    for words in (["--dry-run", "--forceall"], ["--unlock"], ["--summary"], ["--nolock", "--force", "results/toy/network"]):
        status, shown = toy.run(second, *words)
        assert status == 0, shown
    assert toy.network.read_text().strip() == str(second)


def test_a_killed_run_leaves_no_lock(toy, running):
    running.kill()
    running.wait()
    status, shown = toy.run(toy.checkouts[1], "--force", "results/toy/network")
    assert status == 0, shown
    assert f"in {toy.checkouts[1]}\n" in (toy.shared / "toy/.lock").read_text()


def test_several_runs_of_one_process(tmp_path):
    run_lock.hold(SETTINGS, tmp_path / "run")
    run_lock.hold(SETTINGS, tmp_path / "run")


def test_without_locks_it_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    monkeypatch.setattr(run_lock.logger, "propagate", True)
    run_lock.hold(SETTINGS, tmp_path / "run")
    assert f"{tmp_path}/run/.lock: No locks available; see to it yourself that no other run" in caplog.text


def test_nolock_leaves_no_trace(tmp_path):
    run_lock.hold(SimpleNamespace(execution_settings=SimpleNamespace(lock=False)), tmp_path / "run")
    assert os.listdir(tmp_path) == []
