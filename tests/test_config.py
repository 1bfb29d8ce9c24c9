import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fgp_workflow import config_docs
from fgp_workflow.config import load
from fgp_workflow.experiment import Cell, Experiment
from fgp_workflow.settings import Settings

import baselines
from fgp import options
from fgp.errors import FgpError

ROOT = Path(__file__).parents[1]


def demo() -> dict:
    return yaml.safe_load((ROOT / "config/everything.yaml").read_text())


def experiment(**changes) -> Experiment:
    return Experiment(load({**demo(), **changes}, "demo.yaml"))


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


def test_an_experiment_holds_tables_and_figures_without_duplicates():
    cells = experiment().cells
    assert len(cells) == len(set(cells))
    vgg = {cell.path for cell in cells if cell.task == "digits-vgg16"}
    assert {
        "fgp/cumulative-0.35",
        "fgp/macs-0.2655",
        "l1/macs-0.2655",
        "scratch-e/macs-0.2655",
        "fgp/peak-rand-0.30-of-0.50",
    } <= vgg
    assert {cell.path for cell in cells if cell.task == "digits-vgg16-c5"} == {"dense/unpruned", "fgp/cumulative-0.40"}


def test_a_task_may_have_fewer_methods():
    raw = set_in(demo(), "tasks/digits-vgg16/methods", ["l1"])
    cells = Experiment(load(raw, "x")).cells_of("digits-vgg16")
    assert {cell.path for cell in cells if not cell.path.startswith("fgp")} == {"dense/unpruned", "l1/macs-0.2655"}


def test_class_sweep_cuts_the_data_set():
    made = experiment()
    assert made.tasks["digits-vgg16-c5"].dataset == "digits32-c5"
    assert made.datasets["digits32-c5"].classes == 5
    assert made.datasets["digits32"].classes is None


def test_printed_budget_of_one_method_adds_a_cell_for_that_method_only():
    raw = set_in(demo(), "tasks/digits-vgg16/at_printed", {"slimming": 0.52})
    extra = set(Experiment(load(raw, "x")).cells) - set(experiment().cells)
    assert extra == {Cell("digits-vgg16", "slimming", "macs-0.5200")}


def words(settings: str) -> list[tuple[str, ...]]:
    """The flags of a stage, each with its values."""
    flags = []
    for word in settings.split():
        if word.startswith("--"):
            flags.append(())
        flags[-1] += (word,)
    return flags


@pytest.mark.parametrize(("method", "rule"), [("slimming", "global"), ("fgp", "cumulative"), ("l1", "count")])
def test_pruning_to_a_number_of_macs_is_by_the_methods_own_rule(method, rule):
    settings = Settings(experiment())
    assert words(settings.prune("digits-vgg16", method, "macs-0.2368")) == [("--selection", "macs-0.2368"), ("--rule", rule)]
    assert words(settings.prune("digits-vgg16", method, "cumulative-0.40")) == [("--selection", "cumulative-0.40")]


def test_coupled_layers_are_pruned_where_the_task_says_so():
    settings = Settings(Experiment(load(set_in(demo(), "tasks/digits-vgg16/tied", True), "x")))
    assert ("--tied",) in words(settings.prune("digits-vgg16", "l1", "macs-0.2368"))
    assert ("--tied",) in words(settings.own_training("digits-vgg16", "frs", "macs-0.2368"))
    assert ("--tied",) in words(settings.asked("digits-vgg16"))
    assert ("--tied",) not in words(settings.own_training("digits-vgg16", "slimming", "sparse"))
    assert ("--tied",) not in words(settings.prune("digits-resnet50", "l1", "macs-0.2368"))


def test_scratch_controls_train_for_equal_epochs_or_flops():
    settings = Settings(experiment())
    for method, scale in (("scratch-b", "flops"), ("scratch-e", "equal")):
        given = words(settings.scratch("digits-vgg16", method, "macs-0.2368"))
        assert ("--epochs-scale", scale) in given
        assert ("--epochs", "2") in given


def test_a_methods_own_training_has_its_start_options_and_recipe():
    settings = Settings(experiment())
    slimming = words(settings.own_training("digits-vgg16", "slimming", "sparse"))
    assert {("--method", "slimming"), ("--network", "vgg16"), ("--option", "strength=0.001"), ("--epochs", "2")} <= set(slimming)
    fisher = words(settings.own_training("digits-vgg16", "group-fisher", "macs-0.2655"))
    assert {("--selection", "macs-0.2655"), ("--option", "channels=8"), ("--epochs", "60")} <= set(fisher)
    assert "--network" not in {flag for flag, *_ in fisher}
    assert ("--epochs", "1") in words(settings.own_training("scenes-segnet", "depgraph-sparse", "sparse"))


def test_options_of_a_criterion_are_those_of_its_scoring():
    settings = Settings(experiment())
    assert ("--option", "iterations=20") in words(settings.score("digits-vgg16", "aofp-oneshot"))
    assert "--option" not in {flag for flag, *_ in words(settings.score("digits-vgg16", "dcp"))}


def test_an_architecture_is_trained_like_the_dense_network():
    settings = Settings(experiment())
    dense, own = (words(settings.train("digits-resnet50", method)) for method in ("dense", "slimconv"))
    assert set(own) - set(dense) == {("--network", "slimconv_resnet50"), ("--tag", "method=slimconv")}
    assert set(dense) - set(own) == {("--network", "resnet50"), ("--tag", "method=dense")}


def test_a_method_that_adjusts_weights_or_the_loss_takes_part():
    settings, cell = Settings(experiment()), ("scenes-segnet", "dcfp", "macs-0.3618")
    assert ("--repair", "dcfp") in words(settings.prune(*cell))
    assert ("--images", "60") in words(settings.prune(*cell))
    assert ("--method", "dcfp") in words(settings.finetune(*cell))
    assert ("--repair", "thinet") in words(settings.prune("digits-vgg16", "thinet", "macs-0.2655"))
    assert "--method" not in {flag for flag, *_ in words(settings.finetune("digits-vgg16", "thinet", "macs-0.2655"))}


def test_the_budgets_that_a_task_asks_for_are_checked():
    asked = words(Settings(experiment()).asked("digits-vgg16"))
    assert asked == [("--selections", "macs-0.2655")]
    raw = set_in(set_in(demo(), "tasks/digits-vgg16/round_to", 8), "tasks/digits-vgg16/at_printed", {"l1": 0.5})
    ((flag, *names),) = words(Settings(Experiment(load(raw, "x"))).asked("digits-vgg16"))
    assert (flag, sorted(names)) == ("--selections", ["macs-0.2655", "macs-0.2655-x8", "macs-0.5000-x8"])
    assert Settings(experiment()).asked("digits-vgg16-c5") == ""


@pytest.mark.parametrize(
    ("method", "rules"),
    [
        ("l1", {"score", "prune", "finetune"}),
        ("slimming", {"sparse_training", "score", "prune", "finetune"}),
        ("dcp", {"sparse_training", "score", "prune", "finetune"}),
        ("aofp", {"gradual", "finetune"}),
        ("slimconv", {"train"}),
        ("scratch-e", {"scratch"}),
    ],
)
def test_rules_that_serve_a_method(method, rules):
    made = experiment()
    every = ("train", "sparse_training", "score", "gradual", "prune", "finetune", "scratch")
    assert {rule for rule in every if method in made.methods_through(rule)} == rules


def test_a_method_runs_on_every_task_that_it_is_meant_for():
    made = experiment()
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
    assert Experiment(narrow).tables == [1, 3]
    without = load(demo() | {"only": ["scenes-segnet"]}, "demo.yaml")
    assert [figure for _, figure in without.figures] == [None] * 4
    assert Experiment(without).tables == [2]
    assert load(narrow.model_dump(mode="json"), "config.yaml") == narrow


def test_a_task_may_have_fewer_seeds():
    made = Experiment(load({**set_in(demo(), "tasks/digits-vgg16/seeds", [1]), "seeds": [0, 1]}, "x"))
    assert made.seeds_of("digits-vgg16") == made.seeds_of("digits-vgg16-c5") == (1,)
    assert made.seeds_of("digits-resnet50") == (0, 1)


@pytest.mark.parametrize("method", sorted(baselines.discover()))
def test_the_schema_declares_the_options_of_every_method(method):
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    declared = schema["$defs"]["Task"]["properties"]["options"]
    function = options.carrier(baselines.get(method))
    names = set(options.model(function).model_fields) if function else set()
    assert set(declared["properties"].get(method, {"properties": {}})["properties"]) == names
    assert declared["additionalProperties"] is False


def snakemake(folder, *more):
    """Write the resolved configuration of the demo, of a run in `folder`, and return it."""
    raw = set_in(demo(), "run", "resolved")
    (folder / "my.yaml").write_text(yaml.safe_dump(raw))
    out = "results/resolved/config.yaml"
    words = ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", folder / "my.yaml"]
    command = [sys.executable, "-m", "snakemake", out, *words, "--cores", "1", "--workflow-profile", "none", *more]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((folder / out).read_text()), done.stderr


def test_what_changes_no_result_is_no_part_of_the_resolved_configuration(tmp_path):
    resolved, _ = snakemake(tmp_path)
    assert not {"accept_code", "threads", "gpu_slots"} & set(resolved)
    assert "gpu_mem_mb" not in resolved["tasks"]["digits-vgg16"]
    assert load(resolved, "x") == load(set_in(demo(), "run", "resolved"), "x")
    again, said = snakemake(tmp_path, "--config", "accept_code=true", "threads=2")
    assert again == resolved
    assert "Nothing to be done" in said
