"""The configuration, as values and as YAML text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment
from fgp_workflow.inputs import read_experiment, read_yaml
from strategies import broken, check_message, damaged, fuzz, outcome, time_limit

from fgp import selections
from fgp.errors import FgpError

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
SMALL = """\
run: small
seeds: [0, 1]
datasets:
  digits: {source: digits, size: 8, train_limit: 20}
recipes:
  short: {epochs: 1, lr: 0.1}
tasks:
  digits-vgg16: {dataset: digits, network: vgg16, width: 0.25, recipe: short, finetune: short, k: {"FGP": 0.5}}
methods: [fgp, l1]
"""
LINES = 21
LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
HOSTILE = {
    "billion laughs": LAUGHS,
    "billion laughs in a known key": LAUGHS + SMALL.replace("seeds: [0, 1]", "seeds: *m"),
    "billion laughs in an option": LAUGHS + SMALL.replace("width: 0.25", "options: {l1: *m}"),
    "endless list": SMALL.replace("seeds: [0, 1]", "seeds: &s [*s]"),
    "endless mapping": SMALL.replace("methods:", "datasets: &d {digits: *d}\nmethods:"),
    "deep": SMALL.replace("seeds: [0, 1]", "seeds: " + "[" * 500),
    "deep blocks": "- " * 3000,
    "object": "run: !!python/object/apply:os.system ['touch executed']\n",
    "module": "run: !!python/module:os\n",
    "own tag": "run: !x y\n",
    "keys of other types": "1: 2\nnull: 3\n? [a, b]\n: 4\n2001-01-01: 5\ntrue: 6\n1.5: 7\n",
    "unhashable key": "? {a: 1}\n: 2\n",
    "dates": SMALL.replace("[fgp, l1]", "[2001-01-01]"),
    "impossible date": "run: 2001-99-99\n",
    "impossible binary": "run: !!binary é\n",
    "impossible int": "run: !!int x\n",
    "empty int": 'run: !!int ""\n',
    "empty hexadecimal": "run: 0x_\n",
    "impossible bool": "run: !!bool x\n",
    "impossible timestamp": "run: !!timestamp x\n",
    "huge int": f"run: {'9' * 5000}\n",
    "huge sexagesimal": f"run: {':'.join(['59'] * 5000)}\n",
    "key twice": SMALL + "methods: [fgp]\n",
    "two documents": SMALL + "---\nrun: other\n",
    "nothing": "",
    "list": "[1, 2]\n",
    "infinite width": SMALL.replace("0.25", ".inf"),
    "infinite measuring": SMALL + "latency: {seconds: .inf}\n",
    "not a number": SMALL.replace("0.25", ".nan"),
    "NUL": "run: \x00\n",
    "surrogate": 'run: "\\ud800"\n',
    "line breaks": SMALL.replace("digits-vgg16:", '"a\\nb\\x1b[2J":'),
    "too long a name": SMALL.replace("small", "s" * 10**5),
    "many mistakes": SMALL + "".join(f"x{n}: 1\n" for n in range(3000)),
}


def test_the_small_configuration_is_legal(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    assert read_experiment(tmp_path / "small.yaml").cells


@fuzz(300, broken(DEMO))
def test_values(raw):
    try:
        config = load(raw, "demo.yaml")
    except FgpError as error:
        check_message(str(error), "demo.yaml", LINES)
        return
    again = load(config.model_dump(mode="json"), "demo.yaml")
    assert again == config
    assert Experiment(config).cells == Experiment(again).cells
    for cell in Experiment(config).cells:
        assert cell.selection == "unpruned" or selections.parse(cell.selection).name == cell.selection


@pytest.mark.parametrize("key", ["seeds", "run", "tasks", "methods", "latency", "other"])
def test_values_that_contain_each_other(key):
    raw = yaml.safe_load(LAUGHS + SMALL) | {"again": None}
    with time_limit():
        for bomb in (raw["m"], {"a": raw["m"]}):
            with pytest.raises(FgpError) as caught:
                load({**yaml.safe_load(SMALL), key: bomb}, "demo.yaml")
            check_message(str(caught.value), "demo.yaml", LINES)


@fuzz(150, damaged(SMALL.encode(), deepest=400))
def test_damaged_text(tmp_path, content):
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    experiment = outcome(read_experiment, path, LINES)
    if experiment:
        yaml.safe_dump(experiment.config.model_dump(mode="json"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(tmp_path, name):
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[name])
    with time_limit():
        assert outcome(read_experiment, path, LINES) is None
        outcome(read_yaml, path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["billion laughs", "object", "line breaks"])
def test_collect_refuses_it_on_one_page(tmp_path, name):
    (tmp_path / "config.yaml").write_text(HOSTILE[name])
    command = [sys.executable, "-m", "fgp_workflow.collect", "--config", "config.yaml", "--out", "cells.csv"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "workflow")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stdout == ""
    check_message(done.stderr.rstrip("\n"), "config.yaml", LINES)
    assert os.listdir(tmp_path) == ["config.yaml"]
