"""A tiny run with the files of every stage, made as the rules make them."""

import copy
import os
import shlex
from pathlib import Path

import yaml
from fgp_workflow import collect
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment, facts
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout

from fgp.cli import main

TASK, MACS = "digits-vgg16", "macs-0.5000"
CONFIG = {
    "run": "x",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits": {"source": "digits", "size": 32, "train_limit": 100, "test_limit": 60}},
    "recipes": {"long": {"epochs": 1, "lr": 0.1, "batch_size": 50}, "short": {"epochs": 1, "lr": 0.05, "batch_size": 50}},
    "tasks": {
        TASK: {
            **{"dataset": "digits", "network": "vgg16", "width": 0.0625, "recipe": "long", "finetune": "short"},
            **{"budgets": {"half": 0.5}},
        }
    },
    "methods": ["l1", "slimming"],
    "scoring": {"images": 20},
    "latency": {"batch_sizes": [1], "seconds": 0.01},
}
CELL, DENSE = f"{TASK}/seed0/l1/{MACS}", f"{TASK}/seed0/dense/unpruned"
PATHS = Layout(".")


def set_in(config, key, value):
    first, _, rest = key.partition("/")
    return config | {first: set_in(config.get(first, {}), rest, value) if rest else value}


class Run:
    """The results of a configuration in a folder, made stage by stage as the rules do."""

    def __init__(self, folder: Path, config: dict = CONFIG) -> None:
        self.folder = folder
        self.configure(config)

    def configure(self, config: dict) -> None:
        """Let the configuration be another from now on."""
        experiment = Experiment(load(copy.deepcopy(config), "config.yaml"))
        self.keys, self.settings = Keys(experiment), Keys(experiment).settings
        self.names = {"task": TASK, "seed": 0, "dataset": "digits"}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(experiment.config.model_dump(mode="json")))

    def path(self, pattern: str, **names: str) -> str:
        return str(self.folder / pattern.format(**self.names, **names))

    def fgp(self, stage, settings: str, *words: str, runs: bool = True) -> None:
        os.environ["FGP_KEY"] = stage.key
        own = ["--seed", "0", "--device", "cpu"] if runs else []
        try:
            assert main([stage.name, *shlex.split(settings), *own, *words]) == 0
        finally:
            del os.environ["FGP_KEY"]

    def data(self) -> None:
        self.fgp(self.keys.data("digits"), self.settings.data("digits"), "--out", self.path(PATHS.data), runs=False)

    def train(self) -> None:
        self.fgp(self.keys.train(TASK, 0), self.settings.train(TASK, "dense"), *self._training(DENSE))

    def sparse_training(self) -> None:
        settings = self.settings.own_training(TASK, "slimming", "sparse")
        self.fgp(self.keys.own_training(TASK, 0, "slimming"), settings, *self._training(f"{TASK}/seed0/slimming/sparse"))

    def score(self, method: str) -> None:
        words = ["--data", self.path(PATHS.data), "--weights", self._scored(method), "--out", self._scores(method)]
        self.fgp(self.keys.score(TASK, 0, method), self.settings.score(TASK, method), *words)

    def prune(self, method: str) -> None:
        folder = self.folder / f"{TASK}/seed0/{method}/{MACS}"
        words = ["--data", self.path(PATHS.data), "--weights", self._scored(method), "--scores", self._scores(method)]
        words += ["--write-plan", str(folder / "plan.json"), "--out", str(folder / "pruned.safetensors")]
        self.fgp(self.keys.prune(TASK, 0, method, MACS), self.settings.prune(TASK, method, MACS), *words)

    def finetune(self, method: str) -> None:
        cell = f"{TASK}/seed0/{method}/{MACS}"
        words = ["--weights", str(self.folder / cell / "pruned.safetensors"), *self._training(cell)]
        self.fgp(self.keys.cell(TASK, 0, method, MACS), self.settings.finetune(TASK, method, MACS), *words)

    def measure(self) -> None:
        networks = [cell.path for cell in self.keys.experiment.cells_of(TASK)]
        named = [f"{name}={self.folder}/{TASK}/seed0/{name}/model.safetensors" for name in networks]
        words = ["--data", self.path(PATHS.data), "--device", "cpu", "--out", self.path(PATHS.of_seed("latency.json"))]
        self.fgp(self.keys.measure(TASK, 0), self.settings.measure(), "--weights", *named, *words, runs=False)

    def all(self) -> None:
        self.data()
        self.train()
        self.sparse_training()
        for method in CONFIG["methods"]:
            self.score(method)
            self.prune(method)
            self.finetune(method)
        self.measure()

    def collect(self, *flags: str) -> int:
        return collect.main(["--config", str(self.folder / "config.yaml"), *flags, "--out", str(self.folder / "cells.csv")])

    def _training(self, cell: str) -> list[str]:
        outputs = {"--out": "model.safetensors", "--curve": "curve.csv", "--metrics": "metrics.json"}
        files = [word for flag, name in outputs.items() for word in (flag, str(self.folder / cell / name))]
        return ["--data", self.path(PATHS.data), *files]

    def _scored(self, method: str) -> str:
        cell = DENSE if facts(method).kind == "criterion" else f"{TASK}/seed0/{method}/sparse"
        return str(self.folder / cell / "model.safetensors")

    def _scores(self, method: str) -> str:
        return self.path(PATHS.method("scores.safetensors"), method=method)
