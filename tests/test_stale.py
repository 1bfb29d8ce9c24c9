"""What an edit of the code or the configuration makes Snakemake run again, in a copy of the project with a finished run."""

import contextlib
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
VGG, RESNET = "digits-vgg16", "digits-resnet50"
CONFIG = {
    "run": "tiny",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits32": {"source": "digits", "size": 32}, "small": {"source": "folder:small", "size": 16}},
    "recipes": {
        "long": {"epochs": 2, "lr": 0.05},
        "short": {"epochs": 1, "lr": 0.05},
    },
    "tasks": {
        VGG: {
            **{"dataset": "digits32", "network": "vgg16", "width": 0.0625, "recipe": "long", "finetune": "short"},
            **{"k": {"FGP+": 0.4}, "budgets": {"FGP+": 0.5}},
            "paper": {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"},
        },
        RESNET: {
            **{"dataset": "small", "network": "resnet50", "width": 0.0625, "recipe": "long", "finetune": "short"},
            **{"budgets": {"FGP+": 0.5}, "methods": ["l1"]},
            "paper": {"table": "T1", "backbone": "ResNet-50", "column": "acc_cifar10"},
        },
    },
    "methods": ["fgp", "l1", "thinet", "slimming", "aofp", "scratch-e"],
    "scoring": {"images": 100},
    "figures": {"fig1": {"task": VGG}, "fig3a": {"task": VGG, "k": [0.4]}},
}
MACS = "macs-0.5000"

# What follows a stage, from behind.
REPORT = {"html_report"}
DRAWN = {"figure-3a"} | REPORT
TABLES = {"table-1", "table-3"} | REPORT
CELLS = {"collect"} | DRAWN | TABLES
MAPS = {"heat_maps"} | REPORT
CONFIGURED = {"resolved_config"} | CELLS


def latency(task=VGG, seed=0):
    return {f"latency {task} {seed}"} | CELLS


def finetuned(*names, task=VGG, seed=0):
    """The fine-tuning of some cells, named METHOD or METHOD-SELECTION, and what follows."""
    full = [name if "-0." in name else f"{name}-{MACS}" for name in names]
    copied = {f"finetune-{task}-scratch-e-{MACS} {task} {seed}" for name in full if name == f"fgp-{MACS}"}
    maps = MAPS if task == VGG and "fgp-cumulative-0.40" in full else set()
    return {f"finetune-{task}-{name} {task} {seed}" for name in full} | copied | maps | latency(task, seed)


def scored(*methods, task=VGG, seed=0):
    """The scoring of some methods and what follows."""
    cells = [name for method in methods for name in ([method, "fgp-cumulative-0.40"] if method == "fgp" else [method])]
    return {f"score-{task}-{method} {task} {seed}" for method in methods} | finetuned(*cells, task=task, seed=seed)


SPARSE = {f"sparse-slimming {VGG} 0"} | scored("slimming")
GRADUAL = {f"gradual-aofp {VGG} 0 {MACS}"} | finetuned("aofp")
ALL_TUNED = finetuned("fgp", "fgp-cumulative-0.40", "l1", "thinet", "slimming", "aofp") | finetuned("l1", task=RESNET)
DENSE_VGG = {f"dense {VGG} 0"} | scored("fgp", "l1", "thinet") | GRADUAL | MAPS
DENSE_RESNET = {f"dense {RESNET} 0"} | scored("l1", task=RESNET)
TRAINED = DENSE_VGG | DENSE_RESNET | SPARSE | finetuned("scratch-e")
EVERYTHING = TRAINED | {"data digits32", "data small"}
SCORED = scored("fgp", "l1", "thinet", "slimming") | scored("l1", task=RESNET)
OF_SEED_1 = {re.sub(r" 0\b", " 1", job) for job in TRAINED - MAPS}
OWN_CODE = {
    "baselines/l1.py": scored("l1") | scored("l1", task=RESNET) | TABLES,
    "baselines/thinet.py": scored("thinet"),
    "baselines/slimming.py": SPARSE,
    "baselines/aofp.py": GRADUAL,
    "baselines/scratch_e.py": TABLES,
    "baselines/cap.py": set(),
}
CODE = {
    "fgp/train/loop.py": TRAINED,
    "fgp/train/augment.py": TRAINED,
    "fgp/train/hooks.py": TRAINED,
    "fgp/train/gradual.py": GRADUAL,
    "fgp/evaluate.py": TRAINED,
    "fgp/latency.py": latency(VGG) | latency(RESNET),
    "fgp/cli/finetune.py": ALL_TUNED,
    "fgp/cli/score.py": SCORED,
    "fgp/cli/measure.py": latency(VGG) | latency(RESNET),
    "fgp/cli/rerun.py": set(),
    "fgp/scoring/engine.py": scored("fgp", "thinet") | SPARSE | MAPS,
    "fgp/scoring/maps.py": MAPS | DRAWN,
    "fgp/scoring/contributions.py": scored("thinet") | TABLES,
    "fgp/select.py": finetuned("fgp", "fgp-cumulative-0.40", "l1", "thinet", "slimming") | finetuned("l1", task=RESNET),
    "fgp/surgery.py": scored("thinet") | ALL_TUNED | finetuned("scratch-e") | GRADUAL,
    "fgp/data/digits.py": EVERYTHING - {"data small"} - DENSE_RESNET | latency() | TABLES,
    "fgp/data/folders.py": {"data small"} | DENSE_RESNET,
    "fgp/data/camvid.py": set(),
    "fgp/data/preparing.py": EVERYTHING,
    "fgp/models/vgg.py": TRAINED - DENSE_RESNET | latency(),
    "fgp/models/resnet.py": DENSE_RESNET,
    "fgp/models/segnet.py": set(),
    "workflow/fgp_workflow/tables.py": TABLES,
    "workflow/fgp_workflow/collect.py": CELLS | MAPS,
    "workflow/fgp_workflow/proof.py": CELLS | MAPS,
    "workflow/fgp_workflow/figures/fig3a.py": DRAWN | MAPS,
    "workflow/fgp_workflow/gpu_slot.py": set(),
    "workflow/report/fig1.rst": REPORT,
    "results/paper/tables.yaml": DRAWN | TABLES,
    "README.md": set(),
} | OWN_CODE
SETTINGS = {
    "recipes/short/lr": (0.01, ALL_TUNED | GRADUAL | CONFIGURED),
    "recipes/short/epochs": (3, ALL_TUNED | GRADUAL | CONFIGURED),
    "recipes/long/weight_decay": (0.1, TRAINED | CONFIGURED),
    f"tasks/{VGG}/width": (0.125, TRAINED - DENSE_RESNET | latency() | CONFIGURED),
    f"tasks/{VGG}/k/FGP+": (0.3, {f"finetune-{VGG}-fgp-cumulative-0.30 {VGG} 0"} | latency() | MAPS | CONFIGURED),
    f"tasks/{RESNET}/budgets/FGP*": (0.3, {f"finetune-{RESNET}-l1-macs-0.3000 {RESNET} 0"} | latency(RESNET) | CONFIGURED),
    f"tasks/{VGG}/options": ({"slimming": {"strength": 0.01}}, SPARSE | CONFIGURED),
    f"tasks/{VGG}/seeds": ([0], CONFIGURED),
    "seeds": ([0, 1], OF_SEED_1 | CONFIGURED),
    "methods": (["fgp", "l1", "thinet", "slimming", "aofp", "scratch-e", "fpgm"], scored("fpgm") | CONFIGURED),
    "methods/2": ("fpgm", scored("fpgm") | CONFIGURED),
    f"tasks/{VGG}/without": (["thinet"], latency() | CONFIGURED),
    "scoring/images": (50, SCORED | CONFIGURED),
    "latency/seconds": (0.5, latency(VGG) | latency(RESNET) | CONFIGURED),
    "datasets/digits32/train_limit": (500, EVERYTHING - {"data small"} - DENSE_RESNET | latency() | CONFIGURED),
    "figures/fig1/channels": (4, MAPS | CONFIGURED),
    "figures/fig3a/k": ([0.8], {f"finetune-{VGG}-fgp-cumulative-0.80 {VGG} 0"} | latency() | CONFIGURED),
    "threads": (2, set()),
    "gpu_slots": (2, set()),
    f"tasks/{VGG}/gpu_mem_mb": (9000, set()),
    "cells_per_job": (
        2,
        {f"score-{VGG}-fgp {VGG} 0"} | finetuned("fgp-cumulative-0.40", "l1", "scratch-e") | CONFIGURED,
    ),
}


def plan(folder, out, words):
    """Run Snakemake of a copied project in this process and write what it prints to a file."""
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "workflow")]
    from snakemake import cli

    with open(out, "w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            cli.main([*words, "--workflow-profile", "none", "--cores", "1", "--configfile", "config/tiny.yaml"])
        except SystemExit as stop:
            sys.exit(stop.code)


class Project:
    """A copy of the project's files with the outputs of a run that Snakemake takes for finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["snakemake.cli", "pydantic"])
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("fgp", "baselines", "workflow", "results/paper"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("Snakefile", "environment.yml", "README.md"):
            shutil.copy(ROOT / name, folder)
        (folder / "config").mkdir()
        self.configure(CONFIG)
        for row in self._summary():
            path = folder / row[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path}\n")
        self._snakemake("all", "--touch", "--forceall")

    def configure(self, config):
        (self.folder / "config/tiny.yaml").write_text(yaml.safe_dump(config))

    def jobs(self):
        """Return the jobs that Snakemake would run: rule, task and seed, selection of a gradual method, data set."""
        return {self._name(row[0], row[2]) for row in self._summary() if row[5] == "update pending"}

    @staticmethod
    def _name(output, rule):
        _, _, *parts = output.split("/")
        if rule == "data":
            return f"data {Path(parts[-1]).stem}"
        if len(parts) < 2 or not parts[1].startswith("seed"):
            return rule
        own = [parts[3]] if rule.startswith("gradual") else []
        return " ".join([rule, parts[0], parts[1].removeprefix("seed"), *own])

    def _summary(self):
        lines = self._snakemake("all", "--summary").splitlines()
        header = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
        return [line.split("\t") for line in lines[header + 1 :] if line.count("\t") == 5]

    def _snakemake(self, *words):
        out = self.folder / "out"
        process = self._processes.Process(target=plan, args=(self.folder, out, words))
        process.start()
        process.join(100)
        assert process.exitcode == 0, out.read_text()
        return out.read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    assert made.jobs() == set()
    return made


@contextlib.contextmanager
def edited(path, text):
    before, status = path.read_text(), path.stat()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def changed(config, key, value):
    """Return a configuration with another value at `key`, a path with slashes."""
    first, _, rest = key.partition("/")
    if isinstance(config, list):
        return [*config[: int(first)], value, *config[int(first) + 1 :]]
    return config | {first: changed(config.get(first, {}), rest, value) if rest else value}


@pytest.mark.parametrize("file", CODE)
def test_an_edit_of_the_code_reruns_what_runs_it_and_what_follows(project, file):
    path = project.folder / file
    with edited(path, path.read_text() + "\n\n# edited\n"):
        assert project.jobs() == CODE[file]


def test_an_edit_of_a_docstring_counts(project):
    path = project.folder / "fgp/select.py"
    text = path.read_text().replace('"""', '"""Edited. ', 1)
    assert text != path.read_text()
    with edited(path, text):
        assert project.jobs() == CODE["fgp/select.py"]


@pytest.mark.parametrize("key", SETTINGS)
def test_an_edit_of_the_configuration_reruns_what_it_concerns(project, key):
    value, expected = SETTINGS[key]
    config = changed(CONFIG, key, value)
    assert config != CONFIG
    with edited(project.folder / "config/tiny.yaml", yaml.safe_dump(config)):
        assert project.jobs() == expected
