"""The DAG where jobs share no files: inputs and outputs pass through a storage, each job has a folder of its own for its copies.

So a job sees the inputs that its rule declares and nothing else, as on Kubernetes or a cloud's batch service.
"""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from slurm_cluster import NoPackagesError, install
from test_workflow import TINY, Project

CONFIG = {
    **TINY,
    "methods": ["fgp", "thinet", "slimming", "group-fisher", "scratch-e"],
    "recipes": {**TINY["recipes"], "long": {"epochs": 20, "batch_size": 50, "lr": 0.05}},
    "tasks": {
        "digits-vgg16": TINY["tasks"]["digits-vgg16"]
        | {"stage_recipes": {"group-fisher": "long"}, "options": {"group-fisher": {"interval": 1, "channels": 8}}}
    },
    "figures": {"fig1": {"task": "digits-vgg16", "channels": 2}, "fig3a": {"task": "digits-vgg16", "k": [0.4]}},
}
SUBMIT = """#!/bin/bash
export JOB_SCRATCH={folder}/scratch/$$
(cd {folder} && bash "$1" > {folder}/submitted-$$.log 2>&1; rm -rf "$JOB_SCRATCH") &
echo $$
"""


@pytest.fixture
def project(tmp_path):
    try:
        install({"rsync": "rsync"})
    except NoPackagesError as reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(reason))
    made = Project(tmp_path)
    made.configure(CONFIG)
    script = tmp_path / "submit"
    script.write_text(SUBMIT.format(folder=tmp_path))
    script.chmod(0o755)
    return made


@pytest.mark.slow
def test_jobs_that_see_declared_inputs_only(project):
    folder = project.folder
    words = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(folder / "submit"), "--jobs", "2"]
    words += ["--default-storage-provider", "fs", "--default-storage-prefix", str(folder / "store")]
    words += ["--shared-fs-usage", "sources", "persistence", "source-cache", "software-deployment"]
    words += ["--local-storage-prefix", str(folder / "main"), "--remote-job-local-storage-prefix", "$JOB_SCRATCH"]
    words += ["--seconds-between-status-checks", "1", "--configfile", "config/tiny.yaml", "--latency-wait", "20"]
    done = subprocess.run(
        ["snakemake", "all_tables", "all_figures", *words],
        cwd=folder, env=project.environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout + "".join(log.read_text() for log in folder.glob("submitted-*.log"))
    stored = folder / "store/results/tiny"
    assert set(pd.read_csv(stored / "cells.csv").method) == {"dense", *CONFIG["methods"]}
    assert "FGP" in (stored / "tables/table1.md").read_text()
    assert all((stored / f"figures/fig{figure}.png").stat().st_size > 10_000 for figure in ("1", "3a"))
    assert not list(folder.glob("results/tiny/**/*.safetensors"))


def test_rsync_is_what_the_storage_copies_with():
    """The fs plugin calls it; where it changes its mind, the installation above can go."""
    import snakemake_storage_plugin_fs

    assert "sysrsync" in vars(snakemake_storage_plugin_fs), sys.version
    assert shutil.which("rsync") or os.geteuid()
