"""A disk that fills up under a whole run of Snakemake: what is there is whole, and with more space the run goes on to the end."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from test_faults import NAMESPACE, can_mount
from test_reproducible import compare
from test_workflow import TINY, Project

pytestmark = pytest.mark.slow

RUN = "snakemake results/tiny/cells.csv --cores 2 --configfile config/tiny.yaml"
SCRIPT = f"""
mount -t tmpfs -o size=$1k none results/tiny
{RUN} 2> full.txt; echo $? > status
cp -r results/tiny full
mount -o remount,size=100m results/tiny
{RUN} 2> enough.txt; echo $? >> status
cp -r results/tiny enough
"""


def test_a_disk_that_fills_up_and_is_cleared(tmp_path):
    can_mount(tmp_path)
    project = Project(tmp_path / "project")
    project.configure({**TINY, "methods": ["l1", "random"], "figures": {}})
    results = project.folder / "results/tiny"
    done = project.snakemake(*RUN.split()[1:4])
    assert done.returncode == 0, done.stderr
    undisturbed = results.rename(tmp_path / "undisturbed")
    sizes = sorted(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    shutil.rmtree(project.folder / ".snakemake")
    results.mkdir()

    words = [*NAMESPACE, "bash", "-c", SCRIPT, "bash", str((sum(sizes) - sizes[-1] // 4) // 1024)]
    subprocess.run(words, cwd=project.folder, env=project.environment, check=True)
    said = (project.folder / "full.txt").read_text()
    assert (project.folder / "status").read_text().split() == ["1", "0"], (project.folder / "enough.txt").read_text()
    assert re.search(r"failed: .*No space left on device", said), said
    assert "cells are missing" in said
    full = project.folder / "full"
    there = [path.relative_to(full) for path in full.rglob("*.*") if path.suffix in (".safetensors", ".json")]
    assert len(there) > 2
    for path in there:
        if path.suffix == ".json":
            assert json.loads((full / path).read_text()).keys() == json.loads((undisturbed / path).read_text()).keys()
        else:
            tensors, whole = load_file(full / path), load_file(undisturbed / path)
            assert all(torch.equal(tensors[name], values) for name, values in whole.items()), path
    assert compare(undisturbed, project.folder / "enough").returncode == 0
