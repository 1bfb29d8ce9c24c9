"""Results that other code made: refused, or kept on demand, which every table then says."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from test_workflow import TINY, Project

pytestmark = pytest.mark.slow

CONFIG = {**TINY, "methods": ["fgp"], "tasks": {"digits-vgg16": TINY["tasks"]["digits-vgg16"] | {"k": {}}}, "figures": {}}
RESULTS = "results/tiny/digits-vgg16/seed0"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished run whose code has changed since, in what the training computes."""
    made = Project(tmp_path_factory.mktemp("other code"))
    made.configure(CONFIG)
    done = made.snakemake("--cores", "2", "all_tables")
    assert done.returncode == 0, done.stderr
    source = made.folder / "fgp/train/loss.py"
    source.write_text(source.read_text() + "\n\nEDITED = 1\n")
    return made


def collect(project, *words):
    command = [sys.executable, "-m", "fgp_workflow.collect", "--config", "results/tiny/config.yaml", "--out", "cells.csv", *words]
    return subprocess.run(command, cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False)


def test_they_are_refused_and_made_again(project):
    refused = collect(project)
    assert refused.returncode == 1
    assert re.search(
        r"metrics\.json: no result of .* fgp train was run with other code than the present; .*accept_code=true", refused.stderr
    )
    planned = project.snakemake("--cores", "2", "--dry-run", "all_tables").stdout
    assert re.search(r"\b1 +train +params changed", planned)


def test_on_demand_they_are_kept_and_what_is_new_is_made_from_them(project):
    dense = project.folder / RESULTS / "dense/unpruned/model.safetensors"
    trained = dense.stat().st_mtime_ns
    planned = project.snakemake("--cores", "2", "--dry-run", "all_tables", "--config", "accept_code=true").stdout
    assert re.findall(r"\d +(\w+)  ", planned) == ["configuration", "collect", "table", "all_tables"]

    project.configure({**CONFIG, "methods": ["fgp", "l1"], "accept_code": True})
    done = project.snakemake("--cores", "2", "all_tables")
    assert done.returncode == 0, done.stderr
    assert dense.stat().st_mtime_ns == trained
    assert not re.search(r"\] (train|score digits-vgg16 seed 0 fgp|prune .* fgp)", done.stderr)
    cells = pd.read_csv(project.folder / "results/tiny/cells.csv").set_index("method")
    assert cells.accepted_code.all()  # l1 too: its network was made from a dense one of other code
    for suffix in ("csv", "md", "tex", "html"):
        text = (project.folder / f"results/tiny/tables/table1.{suffix}").read_text()
        assert "3 of 3 cells were made by other code than the present" in text

    project.configure({**CONFIG, "methods": ["fgp", "l1"]})
    planned = project.snakemake("--cores", "2", "--dry-run", "all_tables").stdout
    assert re.search(r"\b1 +train +params changed", planned)
