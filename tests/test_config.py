from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from fgp_workflow import config_docs
from fgp_workflow.commands import Commands
from fgp_workflow.config import load
from fgp_workflow.grid import Batch, Cell, Grid, facts

from fgp.errors import FgpError

ROOT = Path(__file__).parents[1]


def demo() -> dict:
    return yaml.safe_load((ROOT / "tests/every_method.yaml").read_text())


def grid(**changes) -> Grid:
    return Grid(load({**demo(), **changes}, "demo.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_project_is_legal(path):
    load(yaml.safe_load(path.read_text()), path.name)


def set_in(raw: dict, key: str, value: object) -> dict:
    *sections, last = key.split("/")
    place = raw
    for section in sections:
        place = place[section]
    place[last] = value
    return raw


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("methods", ["fgp", "fgpm"], r"methods: unknown 'fgpm'; did you mean .*fpgm"),
        ("tasks/digits-vgg16/network", "vgg61", r"tasks\.digits-vgg16\.network: unknown 'vgg61'; did you mean vgg16"),
        ("tasks/digits-vgg16/dataset", "digit32", r"tasks\.digits-vgg16\.dataset: unknown 'digit32'; did you mean digits32"),
        ("datasets/digits32/source", "digit", r"datasets\.digits32\.source: unknown 'digit'; did you mean digits"),
        ("sseds", [0], r"sseds: unknown key; did you mean seeds"),
        ("tasks/digits-vgg16/widht", 1, r"tasks\.digits-vgg16\.widht: unknown key; did you mean width"),
        ("recipes/digits/epoch", 3, r"recipes\.digits\.epoch: unknown key; did you mean epochs"),
        ("figures/fig4/shares", 0.3, r"figures\.fig4\.shares: unknown key; did you mean share"),
        ("tasks/digits-vgg16/k", {"FGP*": 1.5}, r"tasks\.digits-vgg16\.k\.FGP\*: .*less than or equal to 1"),
        ("tasks/digits-vgg16/k", {"FGP*": 0}, r"tasks\.digits-vgg16\.k\.FGP\*: .*greater than 0"),
        ("tasks/digits-vgg16/k", {"FGP*": 0.351}, r"tasks\.digits-vgg16\.k\.FGP\*: .*at most 2 decimals"),
        ("tasks/digits-vgg16/budgets", {"half": 0.50001}, r"tasks\.digits-vgg16\.budgets\.half: .*at most 4 decimals"),
        ("seeds", [], r"seeds: "),
        ("tasks/digits-vgg16/dataset", "scenes", r"vgg16 is a classification network, scenes a segmentation data set"),
        ("methods", ["l1", "scratch-e"], r"tasks\.digits-vgg16: scratch-e needs the plans of: unknown 'fgp'"),
        ("tasks/digits-vgg16/methods", ["fgpp"], r"tasks\.digits-vgg16\.methods: unknown 'fgpp'; did you mean fgp"),
        (
            "tasks/digits-vgg16/methods",
            ["scratch-e"],
            r"tasks\.digits-vgg16: scratch-e needs the plans of: unknown 'fgp'",
        ),
        ("tasks/digits-vgg16/methods", ["fgp", "cap"], r"tasks\.digits-vgg16: cap is meant for segmentation, not for vgg16"),
        ("tasks/scenes-segnet/methods", ["fgp", "slimconv"], r"slimconv is meant for classification with vgg16, resnet50, not"),
        ("tasks/scenes-segnet/at_printed", {"rfc": 0.5}, r"tasks\.scenes-segnet: rfc is meant for classification"),
        (
            "tasks/digits-vgg16/options",
            {"hrank": {"batches": 1}},
            r"options\.hrank\.batches: hrank has no such option; did you mean most_batches",
        ),
        ("tasks/digits-vgg16/options", {"hrnak": {}}, r"tasks\.digits-vgg16\.options: unknown 'hrnak'; did you mean hrank"),
        ("tasks/digits-vgg16/stage_recipes", {"hrank": "digits"}, r"stage_recipes: hrank \(kind criterion\) has no own training"),
        ("tasks/digits-vgg16/stage_recipes", {"dcp": "digit"}, r"stage_recipes\.dcp: unknown 'digit'; did you mean digits"),
        ("tasks/digits-vgg16/seeds", [7], r"tasks\.digits-vgg16\.seeds: 7 is not among `seeds`"),
        ("figures/fig3a/task", "digits", r"figures\.fig3a\.task: unknown 'digits'"),
        ("figures/fig3b/task", "scenes-segnet", r"figures\.fig3b\.task: scenes-segnet is no classification task"),
        ("run", "../elsewhere", r"run: "),
        ("only", ["digits-vgg"], r"only: unknown 'digits-vgg'; did you mean digits-vgg16"),
    ],
)
def test_a_wrong_configuration_names_file_key_and_closest_values(key, value, message):
    with pytest.raises(FgpError, match=r"^demo\.yaml: ") as error:
        load(set_in(demo(), key, value), "demo.yaml")
    assert error.match(message)


def test_schema_and_reference_page_are_up_to_date():
    for path, text in config_docs.files().items():
        assert path.read_text() == text, f"{path.name} is stale: run `make schema`"


def test_grid_holds_tables_and_figures_without_duplicates():
    cells = grid().cells
    assert len(cells) == len(set(cells))
    vgg = {cell.path for cell in cells if cell.task == "digits-vgg16"}
    assert {
        "fgp/cumulative-0.35",
        "fgp/macs-0.2655",
        "l1/macs-0.2655",
        "scratch-e/macs-0.2655",
        "fgp/peak-rand-0.30-of-0.50",
    } <= vgg
    assert {cell.path for cell in cells if cell.task == "digits-vgg16-c5"} == {"fgp/cumulative-0.40"}


def test_a_task_may_have_fewer_methods():
    raw = set_in(demo(), "tasks/digits-vgg16/methods", ["l1"])
    cells = Grid(load(raw, "x")).cells_of("digits-vgg16")
    assert {cell.path for cell in cells if not cell.path.startswith("fgp")} == {"l1/macs-0.2655"}


def test_class_sweep_cuts_the_data_set():
    made = grid()
    assert made.tasks["digits-vgg16-c5"].dataset == "digits32-c5"
    assert made.datasets["digits32-c5"].classes == 5
    assert made.datasets["digits32"].classes is None


def test_printed_budget_of_one_method_adds_a_cell_for_that_method_only():
    raw = set_in(demo(), "tasks/digits-vgg16/at_printed", {"slimming": 0.52})
    extra = set(Grid(load(raw, "x")).cells) - set(grid().cells)
    assert extra == {Cell("digits-vgg16", "slimming", "macs-0.5200")}


@pytest.mark.parametrize("size", [1, 3, 50])
def test_batches_hold_every_cell_once_and_what_belongs_together(size):
    made = grid(cells_per_job=size)
    batches = list(made.batches())
    assert sorted((cell for batch in batches for cell in batch.cells), key=str) == sorted(made.cells, key=str)
    assert len({batch.name for batch in batches}) == len(batches)
    for batch in batches:
        assert len({cell.task for cell in batch.cells}) == 1
        assert len(batch.cells) <= size
        assert len(batch.methods) == 1 or batch.kind in ("criterion", "sparse-training", "gradual")
        assert {facts(method).kind for method in batch.methods} == {batch.kind}


def test_commands_of_a_cell_plan_prune_and_fine_tune_in_one_process():
    commands = Commands(grid())
    words = commands.cells(Batch((Cell("digits-vgg16", "slimming", "macs-0.2368"),)), 1).split()
    assert [words[0], *(after for word, after in pairwise(words) if word == "then")] == [
        "plan",
        "prune",
        "finetune",
    ]
    assert words[words.index("--rule") + 1] == "global"
    assert "results/demo/digits-vgg16/seed1/slimming/sparse/model.safetensors" in words


def test_scratch_control_copies_the_plan_and_trains():
    words = Commands(grid()).cells(Batch((Cell("digits-vgg16", "scratch-b", "macs-0.2368"),)), 0).split()
    assert "results/demo/digits-vgg16/seed0/fgp/macs-0.2368/plan.json" in words
    assert words[words.index("--epochs-scale") + 1] == "flops"
    assert "finetune" not in words


def test_sparse_training_has_its_options():
    words = Commands(grid()).own_stage("digits-vgg16", 0, "slimming").split()
    assert words[words.index("--method") + 1] == "slimming"
    assert words[words.index("--network") + 1] == "vgg16"
    assert "strength=0.001" in words


def test_a_method_runs_on_every_task_that_it_is_meant_for():
    made = grid()
    by_task = {task: {cell.method for cell in made.cells_of(task)} for task in made.config.tasks}
    assert {"rfc", "dcp", "frs", "aofp", "slimconv"} <= by_task["digits-vgg16"] & by_task["digits-resnet50"]
    assert {"cap", "dcfp"} <= by_task["scenes-segnet"] & by_task["scenes-deeplabv3"]
    assert not by_task["scenes-segnet"] & {"rfc", "fpei", "gfbs", "dcp", "frs", "aofp", "slimconv"}
    assert not by_task["digits-vgg16"] & {"cap", "dcfp"}


def test_only_narrows_a_configuration():
    narrow = load(demo() | {"only": ["digits-vgg16"]}, "demo.yaml")
    assert list(narrow.tasks) == ["digits-vgg16"]
    assert {"slimming", "scratch-e"} < set(narrow.methods)
    assert not {"cap", "dcfp"} & set(narrow.methods)
    assert narrow.figures.fig3a
    assert narrow.figures.fig4.tasks == ("digits-vgg16",)
    assert Grid(narrow).tables == [1, 3]
    without = load(demo() | {"only": ["scenes-segnet"]}, "demo.yaml")
    assert [figure for _, figure in without.figures] == [None] * 4
    assert Grid(without).tables == [2]
    assert load(narrow.model_dump(mode="json"), "config.yaml") == narrow


def test_a_task_may_have_fewer_seeds():
    made = Grid(load({**set_in(demo(), "tasks/digits-vgg16/seeds", [1]), "seeds": [0, 1]}, "x"))
    seeds = {folder.split("/")[1] for folder in made.folders() if folder.startswith("digits-vgg16")}
    assert seeds == {"seed1"}


def words_of(cell):
    return Commands(grid()).cells(Batch((cell,)), 0).split()


def test_a_gradual_method_prunes_by_the_plan_of_its_own_stage():
    cell = Cell("digits-vgg16", "group-fisher", "macs-0.2655")
    commands = Commands(grid())
    own = commands.own_stage("digits-vgg16", 0, "group-fisher", cell.selection).split()
    assert "results/demo/digits-vgg16/seed0/dense/unpruned/model.safetensors" in own
    assert own[own.index("--selection") + 1] == "macs-0.2655"
    folder = "results/demo/digits-vgg16/seed0/group-fisher/macs-0.2655"
    assert commands.sources(Batch((cell,)), 0) == [f"{folder}/trained.safetensors", f"{folder}/plan.json"]
    assert "plan" not in words_of(cell)
    assert "finetune" in words_of(cell)


def test_an_architecture_is_trained_like_the_dense_network():
    words = words_of(Cell("digits-resnet50", "slimconv", "unpruned"))
    assert words[0] == "train"
    assert words[words.index("--network") + 1] == "slimconv_resnet50"
    assert "then" not in words


def test_a_method_that_adjusts_weights_or_the_loss_takes_part():
    words = words_of(Cell("scenes-segnet", "dcfp", "macs-0.3618"))
    assert words[words.index("--repair") + 1] == "dcfp"
    assert words[len(words) - words[::-1].index("--method")] == "dcfp"
    assert words.index("finetune") < len(words) - words[::-1].index("--method")
    assert "--method" not in words_of(Cell("digits-vgg16", "thinet", "macs-0.2655"))


def test_methods_of_a_kind_score_in_one_process():
    scorings = [scoring.methods for scoring in grid(cells_per_job=50).scorings() if scoring.task == "digits-vgg16"]
    assert [{facts(method).kind for method in methods} for methods in scorings] == [{"criterion"}, {"sparse-training"}]
    assert scorings[1] == ("depgraph-sparse", "slimming")
    scored = {method for methods in scorings for method in methods}
    assert not scored & {"dcp", "frs", "aofp", "group-fisher", "slimconv", "scratch-e"}
