"""The project's own DAG on a real SLURM: one node, two GPUs.

The GPUs are fake: jobs ask for one and are given one each, and then compute on the CPU, as `device: auto` does without CUDA.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slurm_cluster
import yaml
from test_workflow import TINY, Project

PROFILES = Path(__file__).parents[2] / "profiles"
CONFIG = {
    **TINY,
    "device": "auto",
    "recipes": {**TINY["recipes"], "long": {"epochs": 3, "batch_size": 50, "lr": 0.05}},
    "tasks": {
        "digits-vgg16": {**TINY["tasks"]["digits-vgg16"], "recipe": "long", "k": {}, "budgets": {"FGP+": 0.5, "FGP*": 0.3}}
    },
    "methods": ["slimming"],
    "figures": {},
}
# The profile as it is, but for what a cluster of this size needs.
FLAGS = ["--workflow-profile", "profiles/slurm", "--configfile", "config/tiny.yaml", "--latency-wait", "5"]
FLAGS += ["--default-resources", "slurm_partition=main", "mem_mb=1000", "runtime=10"]
FLAGS += ["--slurm-init-seconds-before-status-checks", "9", "--seconds-between-status-checks", "9"]


@pytest.fixture(scope="module")
def _cluster():
    try:
        slurm_cluster.install()
        with slurm_cluster.running():
            yield
    except slurm_cluster.NoPackagesError as reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(reason))


class Run:
    """A Snakemake in the background, in a process group of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = folder / "run.log"
        with self.log.open("w") as log:
            command = ["snakemake", *words, *FLAGS]
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """As `kill -9`; does nothing to a process that has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def succeed(self) -> str:
        """Wait for the end; return what was printed."""
        try:
            assert self.process.wait(400) == 0, self.log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"not finished after 400 s; jobs {slurm_cluster.jobs()}\n{self.log.read_text()}")
        return self.log.read_text()

    def until(self, words: str, number: int) -> dict[str, str]:
        """Wait for so many processes of jobs; return SLURM's job id -> CUDA_VISIBLE_DEVICES."""
        deadline = time.monotonic() + 180
        while len(found := slurm_cluster.processes(words)) < number:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"never {number} processes `{words}`; jobs {slurm_cluster.jobs()}\n{self.log.read_text()}")
            time.sleep(0.1)
        return found


@pytest.fixture
def start(_cluster, tmp_path, monkeypatch):
    """A function that starts a run in a copy of the project."""
    Project(tmp_path).configure(CONFIG)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{tmp_path / 'workflow'}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    runs = []

    def start(*words: str) -> Run:
        runs.append(Run(tmp_path, *words))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.mark.slow
def test_a_run_survives_a_cancelled_job_and_a_killed_workflow(start, tmp_path):
    results = tmp_path / "results/tiny"
    trained = [results / f"digits-vgg16/seed0/{name}/model.safetensors" for name in ("dense/unpruned", "slimming/sparse")]

    run = start(*(str(path.relative_to(tmp_path)) for path in trained))
    devices = run.until("python -m fgp", 2)
    assert sorted(devices.values()) == ["0", "1"]
    cancelled = next(iter(devices))
    slurm_cluster.cancel(cancelled)
    assert f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in run.succeed()
    finished = {path: path.stat().st_mtime_ns for path in [*trained, *results.glob("data/*")]}
    assert len(finished) == 3

    run = start("results/tiny/tables/table1.md")
    run.until("python -m fgp score", 1)
    run.kill()
    left = slurm_cluster.jobs()
    assert left
    slurm_cluster.cancel(*left)
    assert subprocess.run(["snakemake", "--unlock", *FLAGS], cwd=tmp_path, capture_output=True).returncode == 0
    start("results/tiny/tables/table1.md").succeed()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert list(pd.read_csv(results / "cells.csv").method.sort_values()) == ["dense", "slimming", "slimming"]
    assert "Slimming" in (results / "tables/table1.md").read_text()


def test_the_profile_keeps_what_the_default_profile_sets():
    default, slurm = (yaml.safe_load((PROFILES / name / "config.yaml").read_text()) for name in ("default", "slurm"))
    assert default.items() <= slurm.items()
