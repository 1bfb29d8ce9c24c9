"""Snakemake that is really killed, with its jobs and without, and run again."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_resume_kills import assert_same, said, saved_at, until
from test_workflow import TINY, Project

pytestmark = pytest.mark.slow


EVERY_EPOCH = """
import sys

if sys.orig_argv[1:3] == ["-m", "fgp"] and sys.argv[1] in ("train", "finetune"):
    sys.argv += ["--checkpoint-seconds", "0"]
"""
"""What every Python of the project's jobs runs at its start: the rules set no such flag."""


class Snakemake:
    """Snakemake in a copy of the project, where a checkpoint is saved after every epoch."""

    TARGET = "results/tiny/digits-vgg16/seed0/l1/macs-0.5000/metrics.json"

    def __init__(self, folder):
        self.folder, self.results, self.trainers = folder, folder / "results/tiny/digits-vgg16/seed0", []
        recipes = {"long": {"epochs": 24, "batch_size": 50, "lr": 0.02}}
        datasets = {"digits": {**TINY["datasets"]["digits"], "train_limit": 100}}
        tasks = {"digits-vgg16": {**TINY["tasks"]["digits-vgg16"], "recipe": "long", "finetune": "long"}}
        changes = {"recipes": recipes, "datasets": datasets, "tasks": tasks, "methods": ["l1"], "figures": {}}
        Project(folder).configure({**TINY, **changes})
        (folder / "sitecustomize.py").write_text(EVERY_EPOCH)

    def start(self, *words):
        """Start Snakemake, for the target or with other words, as the leader of a process group."""
        words = words or (self.TARGET, "--cores", "1")
        packages = os.pathsep.join([str(self.folder), str(self.folder / "workflow")])
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with open(self.folder / "said.txt", "a") as said:
            self.process = subprocess.Popen(
                ["snakemake", *words, "--configfile", "config/tiny.yaml"],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": packages, "PATH": programs},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def run(self, *words):
        """Run Snakemake to a good end."""
        self.start(*words)
        assert self.process.wait() == 0, said(self.folder)

    def trainer(self, cell):
        """Wait for the first checkpoint of a training by this Snakemake; return its process."""
        before = saved_at(self.results / cell)
        until(lambda: saved_at(self.results / cell) not in (None, before), self.process)
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.trainers.append(next(child for child in below if child.cmdline()[1:3] == ["-m", "fgp"]))
        return self.trainers[-1]

    def stop(self):
        """Leave no process behind."""
        for trainer in self.trainers:
            with contextlib.suppress(psutil.NoSuchProcess):
                trainer.kill()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def log(self, pattern):
        """Return the log of a job."""
        (path,) = (self.folder / "results/tiny/logs").glob(pattern)
        return path.read_text()


def suspend(trainer, claim):
    """Suspend a trainer while it does not hold its lock, which its successor would wait for."""
    while True:
        trainer.suspend()
        with open(claim) as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        trainer.resume()
        time.sleep(0.005)


def ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def snakemake(tmp_path):
    started = Snakemake(tmp_path)
    yield started
    started.stop()


def test_snakemake_killed_with_and_without_its_jobs(snakemake, tmp_path):
    snakemake.start()
    trainer = snakemake.trainer("dense/unpruned")
    os.killpg(snakemake.process.pid, signal.SIGKILL)
    snakemake.process.wait()
    until(lambda: ended(trainer))
    snakemake.run("--unlock")

    snakemake.start()
    cell = snakemake.results / "l1/macs-0.5000"
    orphan, claim = snakemake.trainer(cell), cell / "model.safetensors.claim"
    assert "goes on after epoch" in snakemake.log("train/*")
    snakemake.process.kill()
    snakemake.process.wait()
    assert not ended(orphan)
    suspend(orphan, claim)
    token = claim.read_bytes()
    snakemake.run("--unlock")

    snakemake.start()
    until(lambda: claim.exists() and claim.read_bytes() != token, snakemake.process)
    orphan.resume()
    assert snakemake.process.wait() == 0, said(tmp_path)
    assert "goes on after epoch" in snakemake.log("finetune/*")
    until(lambda: ended(orphan))
    found = {path.relative_to(tmp_path): path for path in sorted(snakemake.results.rglob("*")) if path.is_file()}
    interrupted = tmp_path / "interrupted"
    snakemake.results.rename(interrupted)

    snakemake.run()
    expected = sorted(path.relative_to(tmp_path) for path in snakemake.results.rglob("*") if path.is_file())
    assert list(found) == expected
    for folder in ("dense/unpruned", "l1", "l1/macs-0.5000"):
        assert_same(interrupted / folder, snakemake.results / folder)
