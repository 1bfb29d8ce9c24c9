"""The command lines of the stages, from the configuration. Rules run what stands here; so can a shell."""

import shlex

from fgp_workflow.grid import DENSE, Batch, Cell, Grid, Scoring, facts, module


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

    def dense(self, task: str, seed: int | str) -> str:
        """Path of the dense network."""
        return self.folder(task, seed, *DENSE, "model.safetensors")

    def scored(self, task: str, method: str, seed: int | str) -> str:
        """Path of the network that a method scores: the dense one, or that of its own sparse training."""
        if facts(method).kind == "sparse-training":
            return self.folder(task, seed, method, "sparse", "model.safetensors")
        return self.dense(task, seed)

    def scores(self, task: str, method: str, seed: int | str) -> str:
        """Path of a method's scores."""
        return self.folder(task, seed, method, "scores.safetensors")

    def data(self, dataset: str) -> str:
        """`fgp data` for a data set of the grid."""
        section = self.grid.datasets[dataset]
        words = ["data", "--source", section.source, "--seed", section.seed, "--out", f"{self.root}/data/{dataset}.safetensors"]
        if self.config.data_root:
            words += ["--root", self.config.data_root]
        if section.size:
            words += ["--size", *([section.size] if isinstance(section.size, int) else section.size)]
        for key in ("classes", "train_limit", "test_limit"):
            if value := getattr(section, key):
                words += [f"--{key.replace('_', '-')}", value]
        return _join(words + ["--download"] * section.download)

    def train(self, task: str, seed: int | str) -> str:
        """`fgp train` for the dense network."""
        section = self.grid.tasks[task]
        words = ["train", "--network", section.network, "--width", section.width]
        return _join(words + self._trained(Cell(task, *DENSE), seed) + self._training(section.recipe))

    def own_stage(self, task: str, seed: int | str, method: str, selection: str = "sparse") -> str:
        """`fgp stage` for a method's own training; `selection` of a gradual one."""
        section, about = self.grid.tasks[task], facts(method)
        from_dense = about.start == "dense"
        start = ["--weights", self.dense(task, seed)] if from_dense else ["--network", section.network, "--width", section.width]
        words = ["stage", "--data", self.data_file(task), *start, "--method", method]
        words += _options(section.options.get(method, {}))
        for key, path in self.own_outputs(method).items():
            words += [f"--{key}", path.format(task=task, seed=seed, selection=selection)]
        if about.kind == "gradual":
            words += ["--selection", selection, *["--tied"] * section.tied]
        recipe = section.stage_recipes.get(method, section.finetune if from_dense else section.recipe)
        return _join(words + self._run(seed) + self._tags(task, method, selection) + self._training(recipe))

    def own_inputs(self, task: str, seed: int | str, method: str) -> list[str]:
        """The networks that a method's own training starts from."""
        return [self.dense(task, seed)] if facts(method).start == "dense" else []

    def own_outputs(self, method: str) -> dict[str, str]:
        """The files that a method's own training writes, by their flag, with `{task}`, `{seed}`, if gradual `{selection}`."""
        if facts(method).kind == "gradual":
            folder = self.folder("{task}", "{seed}", method, "{selection}")
            return {"out": f"{folder}/trained.safetensors", "plan": f"{folder}/plan.json", "curve": f"{folder}/gradual_curve.csv"}
        folder = self.folder("{task}", "{seed}", method, "sparse")
        files = {"out": f"{folder}/model.safetensors", "metrics": f"{folder}/metrics.json", "curve": f"{folder}/curve.csv"}
        if not hasattr(module(method), "score"):
            files["scores"] = self.scores("{task}", method, "{seed}")
        return files

    def score(self, scoring: Scoring, seed: int | str) -> str:
        """All `fgp score` of one process, joined by `then`."""
        return " then ".join(self.scoring(scoring.task, method, seed) for method in scoring.methods)

    def scoring(self, task: str, method: str, seed: int | str) -> str:
        """`fgp score` for a method."""
        words = ["score", "--data", self.data_file(task), "--weights", self.scored(task, method, seed), "--method", method]
        if facts(method).kind == "criterion":
            words += _options(self.grid.tasks[task].options.get(method, {}))
        return _join([*words, *self._images(), *self._run(seed), "--out", self.scores(task, method, seed)])

    def sources(self, batch: Batch, seed: int | str) -> list[str]:
        """What a batch reads besides the data: networks, and what the channels are selected by."""
        if batch.kind == "architecture":
            return []
        folders = [self.folder(batch.task, seed, cell.path) for cell in batch.cells]
        if batch.kind == "gradual":
            return [f"{folder}/{name}" for folder in folders for name in ("trained.safetensors", "plan.json")]
        networks = sorted({self.scored(batch.task, method, seed) for method in batch.methods})
        if batch.kind == "scratch":
            return networks + [self._copied_plan(cell, seed) for cell in batch.cells]
        return networks + [self.scores(batch.task, method, seed) for method in batch.methods]

    def results(self, batch: Batch) -> list[str]:
        """The files that a batch writes, with `{seed}` for the seed."""
        names = ["model.safetensors", "curve.csv", "metrics.json"]
        names += ["pruned.safetensors"] * (batch.kind != "architecture")
        names += ["plan.json"] * (batch.kind in ("criterion", "sparse-training"))
        return [self.folder(batch.task, "{seed}", cell.path, name) for cell in batch.cells for name in names]

    def cells(self, batch: Batch, seed: int | str) -> str:
        """All subcommands of a batch, joined by `then`."""
        return " then ".join(command for cell in batch.cells for command in self.cell(cell, seed))

    def cell(self, cell: Cell, seed: int | str) -> list[str]:
        """The subcommands of a cell."""
        make = {"scratch": self._scratch_cell, "architecture": self._architecture_cell}.get(facts(cell.method).kind, self._cell)
        return [_join(words) for words in make(cell, seed)]

    def networks(self, task: str, seed: int | str) -> dict[str, str]:
        """Weights of the dense and of every pruned network of a task and seed, by `<method>/<selection>`."""
        paths = ["/".join(DENSE), *(cell.path for cell in self.grid.cells_of(task))]
        return {path: f"{self.folder(task, seed, path)}/model.safetensors" for path in paths}

    def latency(self, task: str, seed: int | str) -> str:
        """`fgp measure` for all networks of a task and seed."""
        section = self.config.latency
        words = ["measure", "--data", self.data_file(task), "--out", self.folder(task, seed, "latency.json")]
        words += ["--weights", *(f"{name}={path}" for name, path in self.networks(task, seed).items())]
        words += ["--batch-sizes", *section.batch_sizes, "--seconds", section.seconds]
        return _join([*words, "--threads", section.threads, "--device", self.config.device])

    def _cell(self, cell: Cell, seed: int | str) -> list[list]:
        folder, about, method = self.folder(cell.task, seed, cell.path), facts(cell.method), module(cell.method)
        finetune = ["finetune", "--weights", f"{folder}/pruned.safetensors"]
        if about.kind == "gradual":
            network, plan = ["--weights", f"{folder}/trained.safetensors", *self._traced(cell)], []
        else:
            network = ["--weights", self.scored(cell.task, cell.method, seed), *self._traced(cell)]
            scores = ["--scores", self.scores(cell.task, cell.method, seed)]
            choice = ["--selection", cell.selection, "--seed", seed]
            choice += ["--rule", about.selection] if cell.selection.startswith("macs-") else []
            plan = [["plan", *scores, *network, *choice, "--out", f"{folder}/plan.json"]]
            finetune += scores
        prune = ["prune", *network, "--plan", f"{folder}/plan.json", "--out", f"{folder}/pruned.safetensors"]
        if hasattr(method, "repair"):
            prune += ["--repair", cell.method, *self._images(), *self._run(seed)]
        if hasattr(method, "finetuning"):
            finetune += ["--method", cell.method]
        return [*plan, prune, [*finetune, *self._trained(cell, seed), *self._training(self.grid.tasks[cell.task].finetune)]]

    def _architecture_cell(self, cell: Cell, seed: int | str) -> list[list]:
        section = self.grid.tasks[cell.task]
        network = ["--network", facts(cell.method).networks[section.network], "--width", section.width]
        return [["train", *network, *self._trained(cell, seed), *self._training(section.recipe)]]

    def _scratch_cell(self, cell: Cell, seed: int | str) -> list[list]:
        about = facts(cell.method)
        pruned = self.folder(cell.task, seed, cell.path, "pruned.safetensors")
        network = ["--weights", self.dense(cell.task, seed), *self._traced(cell)]
        plan = self._copied_plan(cell, seed)
        scale = ["--epochs-scale", "flops" if about.equal == "flops" else "equal"]
        recipe = self._training(self.grid.tasks[cell.task].recipe)
        return [
            ["prune", *network, "--plan", plan, "--out", pruned],
            ["train", "--architecture", pruned, *scale, *self._trained(cell, seed), *recipe],
        ]

    def _copied_plan(self, cell: Cell, seed: int | str) -> str:
        """Path of the plan whose architecture a scratch control trains."""
        return self.folder(cell.task, seed, facts(cell.method).plan_of, cell.selection, "plan.json")

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

    def _images(self) -> list:
        """Flags that say which training images are looked at."""
        section = self.config.scoring
        return ["--batch-size", section.batch_size] + (["--images", section.images] if section.images else [])

    def _run(self, seed: int | str) -> list:
        return ["--seed", seed, "--device", self.config.device]

    def _tags(self, task: str, method: str, selection: str) -> list[str]:
        tags = {"task": task, "dataset": self.grid.tasks[task].dataset, "method": method, "selection": selection}
        return [word for key, value in tags.items() for word in ("--tag", f"{key}={value}")]

    def _training(self, recipe: str) -> list[str]:
        return self.config.engine.flags() + self.config.recipes[recipe].flags()


def method_module(method: str) -> str:
    """Return the module of a method in `baselines/`."""
    return f"baselines.{method.replace('-', '_')}"


def _options(options: dict) -> list[str]:
    return [word for key, value in options.items() for word in ("--option", f"{key}={value}")]


def _join(words: list) -> str:
    return shlex.join(str(word) for word in words)
