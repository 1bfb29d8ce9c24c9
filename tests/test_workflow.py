"""The DAG as users run it, in copies of the project."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY = {
    "run": "tiny",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits": {"source": "digits", "size": 32, "train_limit": 300, "test_limit": 100}},
    "recipes": {"short": {"epochs": 1, "batch_size": 50, "lr": 0.05}},
    "tasks": {
        "digits-vgg16": {
            "dataset": "digits",
            "network": "vgg16",
            "width": 0.0625,
            "recipe": "short",
            "finetune": "short",
            "k": {"FGP+": 0.4},
            "budgets": {"FGP+": 0.5},
            "paper": {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"},
        }
    },
    "methods": ["fgp", "l1", "slimming", "scratch-e"],
    "latency": {"batch_sizes": [1, 8], "seconds": 0.05},
    "figures": {"fig3a": {"task": "digits-vgg16", "k": [0.4, 0.8]}},
}


class Project:
    """A copy of the project's files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.configure(TINY)

    def configure(self, config: dict) -> None:
        (self.folder / "config/tiny.yaml").write_text(yaml.safe_dump(config))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make programs use this copy."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(self.folder / "workflow")]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "CUDA_VISIBLE_DEVICES": "98,99",
            "FGP_GPU_LOCKS": str(self.folder / "locks"),
        }

    def snakemake(self, *words: str) -> subprocess.CompletedProcess:
        command = ["snakemake", *words, "--configfile", "config/tiny.yaml"]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("methods", ["fgp", "fgpm"], "methods: unknown 'fgpm'; did you mean"),
        ("sseds", [0], "sseds: unknown key; did you mean seeds"),
    ],
)
def test_a_wrong_configuration_is_refused_when_the_dag_is_built(project, key, value, message):
    project.configure({**TINY, key: value})
    done = project.snakemake("--cores", "1", "--dry-run")
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "config/tiny.yaml" in done.stderr + done.stdout
    assert not (project.folder / "results/tiny").exists()


def test_the_papers_dag_is_planned_on_one_screen_from_the_default_configuration(tmp_path):
    project = Project(tmp_path)
    (project.folder / "config/tiny.yaml").write_text((ROOT / "config/config.yaml").read_text())
    done = project.snakemake("--cores", "8", "--resources", "gpu=1", "all_tables", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


def test_there_are_about_a_dozen_rules(project):
    rules = project.snakemake("--list-rules", "--quiet").stdout.split()
    assert {"data", "train", "score", "prune", "finetune", "measure", "collect"} <= set(rules)
    assert len(rules) <= 20
    profiles = [yaml.safe_load(path.read_text()) for path in (ROOT / "profiles").glob("*/config.yaml")]
    assert {rule for profile in profiles for rule in profile.get("set-resources", {})} == {"measure"}


def test_what_jobs_take_of_the_declared_gpus(project):
    for rules in (project.folder / "workflow/rules").rglob("*.smk"):  # without messages, the plan shows resources
        rules.write_text(re.sub(r" +message:\n.*\n", "", rules.read_text()))
    tasks = {"digits-vgg16": {**TINY["tasks"]["digits-vgg16"], "gpu_mem_mb": 700}}
    project.configure({**TINY, "device": "cuda", "tasks": tasks})
    words = ["--dry-run", "--workflow-profile", "none", "--cores", "8", "--resources", "gpu=6", "gpu_mem_mb=10000"]
    planned = project.snakemake(*words).stdout
    taken = Counter(re.findall(r"resources: .*(gpu=[1-9]\d*), (gpu_mem_mb=\d+)", planned))
    # The latency takes all; two trainings, three scorings, six fine-tunings and the control take one each; the rest takes none.
    assert taken == {("gpu=6", "gpu_mem_mb=700"): 1, ("gpu=1", "gpu_mem_mb=700"): 2 + 3 + 6 + 1}


@pytest.mark.slow
def test_a_failing_training_stops_its_dependants_and_leaves_no_result(project):
    project.configure({**TINY, "recipes": {"short": {"epochs": 1, "batch_size": 50, "lr": 1e30}}})
    done = project.snakemake("--cores", "2", "all_tables")
    assert done.returncode != 0
    assert "training diverged" in done.stderr + done.stdout
    assert not list((project.folder / "results/tiny").rglob("metrics.json"))
    assert not list((project.folder / "results/tiny").rglob("model.safetensors"))
