"""What a configuration sets for each stage, as words of the stage's command line. Files, seed and device stand in the rules."""

import shlex

from fgp_workflow.experiment import DENSE, Experiment, facts, module, own_recipe


class Settings:
    """The settings of one experiment, stage by stage."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.config = experiment, experiment.config

    def data(self, dataset: str) -> str:
        """Settings of `fgp data`, without the data root."""
        section = self.experiment.datasets[dataset]
        words = ["--source", section.source, "--seed", section.seed]
        if section.size:
            words += ["--size", *([section.size] if isinstance(section.size, int) else section.size)]
        for key in ("classes", "train_limit", "test_limit"):
            if value := getattr(section, key):
                words += [f"--{key.replace('_', '-')}", value]
        return _join(words)

    def budgets(self, task: str) -> str:
        """Settings of `fgp budgets`: the network."""
        return _join(self._network(task))

    def asked(self, task: str) -> str:
        """The numbers of MACs that a task asks for, for `fgp budgets` to check."""
        cells = self.experiment.cells_of(task)
        wanted = dict.fromkeys(cell.selection for cell in cells if cell.selection.startswith("macs-"))
        return _join([*self._tied(task), "--selections", *wanted]) if wanted else ""

    def train(self, task: str, method: str) -> str:
        """Settings of `fgp train` for the dense network, or for the architecture that a method trains in place of it."""
        words = [*self._network(task, method), *self._tags(task, method, DENSE[1])]
        return _join(words + self._training(self.experiment.tasks[task].recipe))

    def own_training(self, task: str, method: str, selection: str) -> str:
        """Settings of `fgp stage`; `selection` is `sparse`, or the MACs at which a gradual method stops."""
        about = facts(method)
        words = ["--method", method, *self._options(task, method)]
        words += [] if about.start == "dense" else self._network(task)
        if about.kind == "gradual":
            words += ["--selection", selection, *self._tied(task)]
        recipe = own_recipe(self.experiment.tasks[task], method)
        return _join(words + self._tags(task, method, selection) + self._training(recipe))

    def score(self, task: str, method: str) -> str:
        """Settings of `fgp score`."""
        options = self._options(task, method) if facts(method).kind == "criterion" else []
        images = self._images() if hasattr(module(method), "score") else []  # else it has scored while it trained
        return _join(["--method", method, *options, *images])

    def prune(self, task: str, method: str, selection: str) -> str:
        """Settings of `fgp prune`: how channels are chosen, and whether the method adjusts the weights that stay."""
        words = ["--selection", selection, *self._tied(task)]
        words += ["--rule", facts(method).selection] if selection.startswith("macs-") else []
        words += ["--repair", method, *self._images()] if hasattr(module(method), "repair") else []
        return _join(words)

    def finetune(self, task: str, method: str, selection: str) -> str:
        """Settings of `fgp finetune`."""
        words = ["--method", method] if hasattr(module(method), "finetuning") else []
        return _join(words + self._tags(task, method, selection) + self._training(self.experiment.tasks[task].finetune))

    def scratch(self, task: str, method: str, selection: str) -> str:
        """Settings of `fgp train` for a pruned architecture with new weights."""
        words = ["--epochs-scale", "flops" if facts(method).equal == "flops" else "equal"]
        return _join(words + self._tags(task, method, selection) + self._training(self.experiment.tasks[task].recipe))

    def measure(self) -> str:
        """Settings of `fgp measure`."""
        section = self.config.latency
        words = ["--batch-sizes", *section.batch_sizes, "--seconds", section.seconds, "--threads", section.threads]
        return _join(words)

    def figure1(self) -> str:
        """Settings of Figure 1."""
        section = self.config.figures.fig1
        return _join(["--classes", section.classes, "--channels", section.channels])

    def _network(self, task: str, method: str = DENSE[0]) -> list:
        return ["--network", self.experiment.network_of(task, method), "--width", self.experiment.tasks[task].width]

    def _tied(self, task: str) -> list[str]:
        return ["--tied"] if self.experiment.tasks[task].tied else []

    def _options(self, task: str, method: str) -> list[str]:
        given = self.experiment.tasks[task].options.get(method, {})
        return [word for key, value in given.items() for word in ("--option", f"{key}={value}")]

    def _images(self) -> list:
        section = self.config.scoring
        return ["--batch-size", section.batch_size] + (["--images", section.images] if section.images else [])

    def _tags(self, task: str, method: str, selection: str) -> list[str]:
        tags = {"task": task, "dataset": self.experiment.tasks[task].dataset, "method": method, "selection": selection}
        return [word for key, value in tags.items() for word in ("--tag", f"{key}={value}")]

    def _training(self, recipe: str) -> list[str]:
        return self.config.engine.flags() + self.config.recipes[recipe].flags()


def _join(words: list) -> str:
    return shlex.join(str(word) for word in words)
