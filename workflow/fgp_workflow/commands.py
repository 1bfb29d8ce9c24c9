"""The command lines of the stages, from the configuration. Rules run what stands here; so can a shell."""

import shlex

import baselines
from fgp.methods import Method
from fgp_workflow.grid import DENSE, Batch, Cell, Grid


class Commands:
    """Builds the paths below `results/<run>/` and the words of every `fgp` call."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.config = grid.config
        self.root = f"results/{grid.config.run}"

    def data_file(self, task: str) -> str:
        """Path of the prepared data of a task."""
        return f"{self.root}/data/{self.grid.tasks[task].dataset}.safetensors"

    def folder(self, task: str, seed: int | str, *parts: str) -> str:
        """Path of a folder of one task and seed."""
        return "/".join([self.root, task, f"seed{seed}", *parts])

    def dense_weights(self, task: str, method: str, seed: int | str) -> str:
        """Path of the network that a method scores: the dense one, or that of its own sparse training."""
        sparse = baselines.get(method).METHOD.kind == "sparse-training"
        parts = (method, "sparse") if sparse else DENSE
        return self.folder(task, seed, *parts, "model.safetensors")

    def data(self, dataset: str) -> str:
        """Flags of `fgp data` for a data set of the grid."""
        section = self.grid.datasets[dataset]
        words = ["--source", section.source, "--seed", section.seed]
        if self.config.data_root:
            words += ["--root", self.config.data_root]
        if section.size:
            words += ["--size", *([section.size] if isinstance(section.size, int) else section.size)]
        for key in ("classes", "train_limit", "test_limit"):
            if value := getattr(section, key):
                words += [f"--{key.replace('_', '-')}", value]
        return _join(words + ["--download"] * section.download)

    def train(self, task: str, seed: int | str, method: str = DENSE[0], selection: str = DENSE[1]) -> str:
        """Flags of `fgp train` but for its input and output files; sparse-training methods add their regulariser."""
        section = self.grid.tasks[task]
        words = ["--network", section.network, "--width", section.width]
        if method != DENSE[0]:
            words += ["--regulariser", method]
            for key, value in section.regulariser.get(method, {}).items():
                words += ["--regulariser-option", f"{key}={value}"]
        return _join(words + self._run(seed) + self._tags(task, method, selection) + self._recipe(section.recipe))

    def score(self, method: str, seed: int | str) -> str:
        """Flags of `fgp score` but for its input and output files."""
        words = ["--method", method, "--batch-size", self.config.scoring.batch_size]
        if self.config.scoring.images:
            words += ["--images", self.config.scoring.images]
        return _join(words + self._run(seed))

    def sources(self, batch: Batch, seed: int | str) -> list[str]:
        """What the channels of a batch are selected by: the method's scores, or the plans that a scratch control copies."""
        if batch.facts.kind == "scratch":
            return [self.folder(batch.task, seed, batch.facts.plan_of, cell.selection, "plan.json") for cell in batch.cells]
        return [self.folder(batch.task, seed, batch.method, "scores.safetensors")]

    def results(self, batch: Batch) -> list[str]:
        """The files that a batch writes, with `{seed}` for the seed."""
        names = ["pruned.safetensors", "model.safetensors", "curve.csv", "metrics.json"]
        names += ["plan.json"] * (batch.facts.kind != "scratch")
        return [self.folder(batch.task, "{seed}", cell.path, name) for cell in batch.cells for name in names]

    def subcommands(self, batch: Batch) -> list[str]:
        """The subcommands that a batch runs for each of its cells."""
        return ["prune", "train"] if batch.facts.kind == "scratch" else ["plan", "prune", "finetune"]

    def cells(self, batch: Batch, seed: int | str) -> str:
        """All subcommands of a batch, joined by `then`."""
        make = self._scratch_cell if batch.facts.kind == "scratch" else self._cell
        return " then ".join(_join(words) for cell in batch.cells for words in make(cell, batch.facts, seed))

    def networks(self, task: str, seed: int | str) -> dict[str, str]:
        """Weights of the dense and of every pruned network of a task and seed, by `<method>/<selection>`."""
        paths = ["/".join(DENSE), *(cell.path for cell in self.grid.cells_of(task))]
        return {path: f"{self.folder(task, seed, path)}/model.safetensors" for path in paths}

    def latency(self, task: str, seed: int | str) -> str:
        """Flags of `fgp measure` for all networks of a task and seed."""
        section = self.config.latency
        words = ["--weights", *(f"{name}={path}" for name, path in self.networks(task, seed).items())]
        words += ["--batch-sizes", *section.batch_sizes, "--seconds", section.seconds]
        return _join([*words, "--threads", section.threads, "--device", self.config.device])

    def _cell(self, cell: Cell, facts: Method, seed: int | str) -> list[list]:
        folder = self.folder(cell.task, seed, cell.path)
        network = ["--weights", self.dense_weights(cell.task, cell.method, seed), *self._traced(cell)]
        scores = ["--scores", self.folder(cell.task, seed, cell.method, "scores.safetensors")]
        choice = ["--selection", cell.selection, "--seed", seed]
        choice += ["--rule", facts.selection] if cell.selection.startswith("macs-") else []
        recipe = self._recipe(self.grid.tasks[cell.task].finetune)
        return [
            ["plan", *scores, *network, *choice, "--out", f"{folder}/plan.json"],
            ["prune", *network, "--plan", f"{folder}/plan.json", "--out", f"{folder}/pruned.safetensors"],
            ["finetune", "--weights", f"{folder}/pruned.safetensors", *scores, *self._trained(cell, seed), *recipe],
        ]

    def _scratch_cell(self, cell: Cell, facts: Method, seed: int | str) -> list[list]:
        pruned = self.folder(cell.task, seed, cell.path, "pruned.safetensors")
        network = ["--weights", self.dense_weights(cell.task, cell.method, seed), *self._traced(cell)]
        plan = self.folder(cell.task, seed, facts.plan_of, cell.selection, "plan.json")
        scale = ["--epochs-scale", "flops" if facts.equal == "flops" else "equal"]
        recipe = self._recipe(self.grid.tasks[cell.task].recipe)
        return [
            ["prune", *network, "--plan", plan, "--out", pruned],
            ["train", "--architecture", pruned, *scale, *self._trained(cell, seed), *recipe],
        ]

    def _traced(self, cell: Cell) -> list[str]:
        """Flags of the subcommands that trace a network: the data, for its image size, and which layers are coupled."""
        return ["--data", self.data_file(cell.task), *["--tied"] * self.grid.tasks[cell.task].tied]

    def _trained(self, cell: Cell, seed: int | str) -> list:
        """Flags of the subcommands that train a cell's network."""
        folder = self.folder(cell.task, seed, cell.path)
        files = {"data": self.data_file(cell.task), "out": f"{folder}/model.safetensors"}
        files |= {"curve": f"{folder}/curve.csv", "metrics": f"{folder}/metrics.json"}
        words = [word for key, path in files.items() for word in (f"--{key}", path)]
        return words + self._run(seed) + self._tags(cell.task, cell.method, cell.selection)

    def _run(self, seed: int | str) -> list:
        return ["--seed", seed, "--device", self.config.device, "--threads", self.config.threads]

    def _tags(self, task: str, method: str, selection: str) -> list[str]:
        tags = {"task": task, "dataset": self.grid.tasks[task].dataset, "method": method, "selection": selection}
        return [word for key, value in tags.items() for word in ("--tag", f"{key}={value}")]

    def _recipe(self, name: str) -> list[str]:
        return self.config.recipes[name].flags()


def _join(words: list) -> str:
    return shlex.join(str(word) for word in words)
