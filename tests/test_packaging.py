"""The two package lists, and what the project may not contain."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch"}
CONDA_ONLY = {"python", "pip"}


def split(requirement: str) -> tuple[str, str]:
    name, bounds = re.fullmatch(r"([A-Za-z0-9-]+)(.*)", requirement).groups()
    return CONDA_NAMES.get(name, name), bounds


def test_conda_and_pip_users_get_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ours = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    ours += project["project"]["optional-dependencies"]["dev"]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    theirs = [entry for entry in listed if isinstance(entry, str)]
    theirs += [entry for group in listed if isinstance(group, dict) for entry in group["pip"]]
    conda = dict(map(split, theirs))
    assert {name: conda[name] for name in conda.keys() - CONDA_ONLY} == dict(map(split, ours))
    assert conda["python"] == project["project"]["requires-python"]


def test_every_package_of_the_tree_is_installed():
    files = subprocess.run(
        ["git", "ls-files", "*/__init__.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for folder in (ROOT, ROOT / "workflow"):
        packages = set(tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
        found = [(ROOT / file).parent.relative_to(folder) for file in files if (ROOT / file).is_relative_to(folder)]
        assert {".".join(path.parts) for path in found if path.parts[0] not in ("workflow", "tests", "benchmarks")} == packages
