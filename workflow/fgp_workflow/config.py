"""The configuration: what may stand in a `config/*.yaml`, checked when the DAG is built."""

import reprlib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

import baselines
from fgp import selections
from fgp.data.preparing import MOST_PIXELS
from fgp.errors import FgpError
from fgp.models.names import MOST_WIDTH, NETWORKS
from fgp.train.engine import Engine
from fgp.train.recipe import Recipe
from fgp_workflow.config_checks import closest, problems

_MOST_MISTAKES = 15
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_MOST_SEED = 2**63 - 1


def _decimals(most: int) -> AfterValidator:
    """Refuse a share that the names of selections would round."""

    def check(share: float) -> float:
        if round(share, most) != share:
            raise ValueError(f"give at most {most} decimals, it stands so in the names of cells")
        return share

    return AfterValidator(check)


def _distinct(values: tuple) -> tuple:
    if repeated := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ValueError(f"{repeated[0]!r} stands there twice; name each once")
    return values


def _sides(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    if any(not 1 <= side <= MOST_PIXELS for side in ((size,) if isinstance(size, int) else size or ())):
        raise ValueError(f"each side has 1 to {MOST_PIXELS} pixels")
    return size


def _plain(text: str) -> str:
    """Refuse what Snakemake would take for a wildcard, and what no shell command should hold."""
    if any(character in "{}" or not character.isprintable() for character in text):
        raise ValueError("braces and control characters are not possible here")
    return text


Share = Annotated[float, Field(gt=0, le=1), _decimals(2)]
Budget = Annotated[float, Field(gt=0, le=1), _decimals(4)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Plain = Annotated[str, AfterValidator(_plain)]
Words = Annotated[tuple[str, ...], AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, le=_MOST_SEED)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dataset(_Section):
    """Where images come from and how they are prepared."""

    source: Plain = Field(description="digits, scenes, cifar10, cifar100, camvid, cityscapes or folder:<name>")
    size: Annotated[int | tuple[int, int] | None, AfterValidator(_sides)] = Field(
        None, description="resize to this side, or [height, width], in pixels; null: as they are"
    )
    classes: int | None = Field(
        None, ge=2, description="keep only the first so many classes (classification, and the digits of scenes)"
    )
    train_limit: int | None = Field(None, ge=1, description="use only so many training images")
    test_limit: int | None = Field(None, ge=1, description="use only so many test images")
    seed: Seed = Field(0, description="seed of the limits and of generated images")
    download: bool = Field(False, description="download the official archive where the data root lacks it")


class Printed(_Section):
    """Where the paper prints this task."""

    table: Literal["T1", "T2"]
    backbone: str = Field(description="the backbone as printed: VGG-16, ResNet-50, SegNet")
    column: str = Field(description="T1: acc_cifar10 or acc_cifar100; T2: the data set's name")


class Task(_Section):
    """A dataset, a network and the recipes to train and fine-tune it."""

    dataset: str = Field(description="a key of `datasets`")
    network: str = Field(description="a network of fgp.models")
    width: float = Field(1.0, gt=0, le=MOST_WIDTH, description="multiplier of every channel count")
    recipe: str = Field(description="a key of `recipes`, for training")
    finetune: str = Field(description="a key of `recipes`, for fine-tuning after pruning")
    tied: bool = Field(False, description="prune residual streams too, coupled layers as one")
    methods: Words | None = Field(
        None, description="only these of `methods` run on this task; null: all that are meant for its network"
    )
    without: Words = Field((), description="methods that do not run on this task though they are meant for its network")
    k: dict[str, Share] = Field({}, description="FGP as defined: row name -> k of cumulative(k)")
    budgets: dict[str, Budget] = Field(
        {}, description="equal MACs: row name -> share of the dense network's MACs; every method is pruned to each"
    )
    at_printed: dict[str, Budget] = Field(
        {}, description="method -> share of MACs at which the paper prints it, where not a budget"
    )
    round_to: int | None = Field(
        None,
        ge=2,
        description="`budgets` and `at_printed`: every layer keeps a multiple of so many channels, or all of them; methods that "
        "prune while they train are not rounded; null: any number of channels",
    )
    options: dict[str, dict[str, bool | int | float | str]] = Field(
        {}, description="options of methods, of their scoring or their own training: method -> option -> value"
    )
    stage_recipes: dict[str, str] = Field(
        {},
        description="recipe of a method's own training, a key of `recipes`; default: `recipe` where it starts from random "
        "weights, `finetune` where it starts from the dense network",
    )
    seeds: Seeds | None = Field(None, description="only these seeds; null: all")
    gpu_mem_mb: int = Field(4000, ge=0, description="GPU memory that a job takes at most, in MB, estimated; docs/gpus.md")
    paper: Printed | None = Field(None, description="the printed rows to show beside ours")


class Scoring(_Section):
    """What the criteria look at."""

    images: int | None = Field(None, ge=1, description="training images used, drawn evenly over the classes; null: all of them")
    batch_size: int = Field(128, ge=1, description="images a forward pass")


class Latency(_Section):
    """How inference speed is measured."""

    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_distinct)] = Field(
        (1, 128), min_length=1, description="images a forward pass"
    )
    seconds: float = Field(1.0, gt=0, allow_inf_nan=False, description="measuring time for each network and batch size")
    threads: int = Field(1, ge=1, description="CPU threads of the measured network")


class Figure1(_Section):
    """Heat maps of channels by class."""

    task: str
    classes: int = Field(3, ge=1)
    channels: int = Field(6, ge=1)


class Figure3a(_Section):
    """Share k of the scores kept, against accuracy and speed."""

    task: str
    k: Annotated[tuple[Share, ...], Field(min_length=1), AfterValidator(_distinct)]


class Figure3b(_Section):
    """Number of classes, against the gap to the dense network."""

    task: str
    classes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1), AfterValidator(_distinct)]
    k: Share


class Figure4(_Section):
    """Ways to choose the channels that stay."""

    tasks: Words = Field(min_length=1)
    k: Share = Field(description="k of cumulative(k)")
    share: Share = Field(description="share of the channels that the other selections keep")
    of: Share = Field(0.5, description="share of best or worst channels that the random selections draw from, at least `share`")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            selections.check_pool(self.share, self.of, "all", "share")
        except FgpError as error:
            raise ValueError(f"{error}; lower `share` or raise `of`") from None
        return self


class Figures(_Section):
    """The figures to draw; a figure left out is not drawn."""

    fig1: Figure1 | None = None
    fig3a: Figure3a | None = None
    fig3b: Figure3b | None = None
    fig4: Figure4 | None = None


class Config(_Section):
    """One experiment: everything below `results/<run>/`."""

    run: Name = Field(description="name of the folder below results/")
    data_root: Plain | None = Field(None, description="folder with the data sets; null: the environment variable FGP_DATA")
    device: Literal["cpu", "cuda", "auto"] = Field("auto", description="auto: cuda where there is one; which GPU: docs/gpus.md")
    gpu_slots: int = Field(1, ge=1, description="jobs that may share a GPU; docs/gpus.md")
    threads: int = Field(1, ge=1, description="CPU threads of a training, scoring or fine-tuning job; a change repeats nothing")
    accept_code: bool = Field(
        False, description="keep results that other code made than the present, if with the same settings; every table says so"
    )
    seeds: Seeds = Field(description="one run of everything each")
    datasets: dict[Name, Dataset] = Field(description="data sets by name")
    recipes: dict[Name, Recipe] = Field(description="training recipes by name")
    tasks: dict[Name, Task] = Field(min_length=1, description="tasks by name; the name is a folder below results/<run>/")
    only: Words | None = Field(
        None, min_length=1, description="run only these of `tasks`, with the figures and methods that belong to them; null: all"
    )
    methods: Words = Field(description="files of baselines/, written with hyphens")
    engine: Engine = Field(Engine(), description="how training computes; it does not change the recipe")
    scoring: Scoring = Field(Scoring(), description="what the criteria look at")
    latency: Latency = Field(Latency(), description="how inference speed is measured")
    figures: Figures = Field(Figures(), description="the figures to draw; one left out is not drawn")

    def methods_of(self, task: str) -> list[str]:
        """The methods that run on a task."""
        section = self.tasks[task]
        network = section.network
        return [
            name
            for name in self.methods
            if name not in section.without
            and (section.methods is None or name in section.methods)
            and baselines.get(name).METHOD.meant_for(NETWORKS[network].task, network)
        ]

    def seeds_of(self, task: str) -> tuple[int, ...]:
        """The seeds that a task runs with."""
        return self.tasks[task].seeds or self.seeds


def load(raw: dict, file: str) -> Config:
    """Check a configuration read from `file`.

    Raises:
        FgpError: a key is unknown or missing, a value is illegal, or values do not go together; the message names file, key and
            the closest legal values.
    """
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        mistakes = error.errors()
        lines = [_explain(detail) for detail in mistakes[:_MOST_MISTAKES]]
        if len(mistakes) > _MOST_MISTAKES:
            lines.append(f"and {len(mistakes) - _MOST_MISTAKES} more")
        raise FgpError(f"{file}: the configuration is wrong:", *lines) from None
    for problem in problems(config):
        raise FgpError(f"{file}: {problem}")
    return _narrowed(config) if config.only else config


def _narrowed(config: Config) -> Config:
    """Return the part of a configuration that belongs to the tasks in `only`."""
    tasks = {name: task for name, task in config.tasks.items() if name in config.only}
    methods = tuple(method for method in config.methods if any(method in config.methods_of(name) for name in tasks))
    figures = {}
    for name, figure in config.figures:
        if name == "fig4" and figure:
            shown = tuple(task for task in figure.tasks if task in tasks)
            figures[name] = figure.model_copy(update={"tasks": shown}) if shown else None
        else:
            figures[name] = figure if figure and figure.task in tasks else None
    return config.model_copy(update={"tasks": tasks, "methods": methods, "figures": Figures(**figures), "only": None})


def _explain(detail: dict) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if key == "cells_per_job":
        return f"{key}: every cell is a job now; remove the key"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {closest(str(detail['loc'][-1]), _fields(detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    try:
        found = _SHORT.repr(detail["input"])
    except ValueError:
        found = "a number of more than 4300 digits"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')} (found {found})"


def _fields(location: tuple) -> list[str]:
    """Return the legal keys of the section at `location`."""
    section = {
        "datasets": Dataset,
        "recipes": Recipe,
        "tasks": Task,
        "engine": Engine,
        "scoring": Scoring,
        "latency": Latency,
        "figures": Figures,
    }
    figures = {"fig1": Figure1, "fig3a": Figure3a, "fig3b": Figure3b, "fig4": Figure4}
    if not location:
        return list(Config.model_fields)
    if location[-1] == "paper":
        return list(Printed.model_fields)
    model = figures.get(location[-1], section.get(location[0], Config))
    return list(model.model_fields)
