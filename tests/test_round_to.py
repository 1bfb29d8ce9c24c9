"""The task key `round_to`: configuration, cells, settings, DAG and tables."""

import pytest
from fgp_workflow import experiment as experiments
from fgp_workflow import paper
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment, facts
from fgp_workflow.inputs import read_yaml
from fgp_workflow.settings import Settings
from fgp_workflow.table_data import build
from made_up import table
from table_cases import CIFAR, asking, cell, find
from test_config import demo, set_in
from test_workflow import TINY, Project

from fgp.errors import FgpError
from fgp.methods import Method

ROUNDED, PLAIN = "macs-0.2655-x8", "macs-0.2655"


@pytest.fixture(scope="module")
def experiment():
    raw = set_in(demo(), "tasks/digits-vgg16/round_to", 8)
    return Experiment(load(set_in(raw, "tasks/digits-vgg16/at_printed", {"slimming": 0.52, "frs": 0.3}), "demo.yaml"))


@pytest.mark.parametrize("value", [0, 1, -8, 8.5, "eight", True, [8]])
def test_values_that_are_refused(value):
    with pytest.raises(FgpError, match=r"tasks\.digits-vgg16\.round_to: "):
        load(set_in(demo(), "tasks/digits-vgg16/round_to", value), "demo.yaml")


def test_a_task_without_budgets_has_nothing_to_round():
    raw = set_in(demo(), "tasks/digits-vgg16/round_to", 8)
    with pytest.raises(FgpError, match=r"^demo\.yaml: tasks\.digits-vgg16\.round_to: there are no `budgets`"):
        load(set_in(raw, "tasks/digits-vgg16/budgets", {}), "demo.yaml")
    raw = set_in(raw, "tasks/digits-vgg16/at_printed", {"slimming": 0.52})
    load(set_in(raw, "tasks/digits-vgg16/budgets", {}), "demo.yaml")


def test_cells_at_equal_macs_are_rounded_but_for_gradual_methods(experiment):
    def at_equal_macs(made):
        return made.task == "digits-vgg16" and made.selection.startswith("macs-")

    cells = set(filter(at_equal_macs, experiment.cells))
    assert {facts(made.method).kind for made in cells} == {"criterion", "sparse-training", "gradual", "scratch"}
    for made in cells:
        assert made.selection.endswith("-x8") == (facts(made.method).kind != "gradual")
    named = {(made.method, made.selection) for made in cells}
    assert {("slimming", "macs-0.5200-x8"), ("frs", "macs-0.3000"), ("frs", PLAIN), ("scratch-e", ROUNDED)} <= named
    assert set(experiment.cells) - cells == {made for made in Experiment(load(demo(), "x")).cells if not at_equal_macs(made)}


def test_settings(experiment):
    settings = Settings(experiment)
    assert settings.prune("digits-vgg16", "slimming", ROUNDED).split() == ["--selection", ROUNDED, "--rule", "global"]
    assert f"--selection {PLAIN} " in settings.own_training("digits-vgg16", "frs", PLAIN)
    assert {PLAIN, ROUNDED} < set(settings.asked("digits-vgg16").split())


@pytest.mark.parametrize(
    ("source", "selection"), [("frs", "macs-0.3000"), ("fgp", "macs-0.3000-x8"), ("slimming", "macs-0.3000-x8")]
)
def test_a_scratch_control_is_rounded_like_the_method_that_it_copies(experiment, monkeypatch, source, selection):
    known = {"control": Method("Control", kind="scratch", plan_of=source, equal="epochs"), source: facts(source)}
    monkeypatch.setattr(experiments, "facts", known.__getitem__)
    assert experiments.equal_macs(0.3, experiment.tasks["digits-vgg16"], "control") == selection
    assert experiments.equal_macs(0.3, experiment.tasks["digits-resnet50"], "control") == "macs-0.3000"


def test_the_dag_is_planned(tmp_path):
    project = Project(tmp_path)
    asked = {**TINY["tasks"]["digits-vgg16"], "round_to": 8}
    methods = [*TINY["methods"], "group-fisher", "slimconv"]
    project.configure({**TINY, "methods": methods, "tasks": {"digits-vgg16": asked}})
    done = project.snakemake("--cores", "1", "all_tables", "--summary")
    assert done.returncode == 0, done.stderr + done.stdout
    made = dict(line.split("\t")[::2][:2] for line in done.stdout.splitlines() if line.startswith("results/"))
    rules = {"fgp": "finetune", "l1": "finetune", "slimming": "finetune", "scratch-e": "scratch"}
    for method, rule in rules.items():
        assert made[f"results/tiny/digits-vgg16/seed0/{method}/macs-0.5000-x8/model.safetensors"] == rule
    fisher = "results/tiny/digits-vgg16/seed0/group-fisher"
    assert {path: rule for path, rule in made.items() if path.startswith(fisher) and path.endswith("s")} == {
        **{f"{fisher}/macs-0.5000/pruned.safetensors": "gradual", f"{fisher}/macs-0.5000/model.safetensors": "finetune"}
    }
    assert "results/tiny/digits-vgg16/seed0/fgp/cumulative-0.40/model.safetensors" in made


def test_tables_find_rounded_and_gradual_cells():
    ways = {
        "fgp": [("macs-0.2368-x8", 92.0)],
        "l1": [("macs-0.2368-x8", 90.0)],
        "scratch-e": [("macs-0.2368-x8", 89.0)],
        "slimming": [("macs-0.5201-x8", 94.0)],
        "frs": [("macs-0.2368", 91.0), ("macs-0.3000", 93.0)],
    }
    asked = asking(
        methods=list(ways),
        tasks={
            "cifar-vgg": {
                **{**CIFAR, "round_to": 8, "budgets": {"FGP*": 0.2368}, "paper": None},
                "at_printed": {"slimming": 0.5201, "frs": 0.3},
            }
        },
    )
    made = [
        cell(f"{method}/{selection}", seed, after, macs=94_720_000)
        for method, cells in ways.items()
        for selection, after in cells
        for seed in (0, 1)
    ]
    made += [cell("dense/unpruned", seed, 95.0, macs=400_000_000) for seed in (0, 1)]
    built = build(1, table(made), asked, read_yaml(paper.FILE))
    (block,) = built.blocks
    measured = {
        (row.method, row.selection): count
        for row, count in zip(block.rows, block.numbers["after_percent", "count"], strict=True)
        if count
    }
    assert measured == {("dense", "unpruned"): 2} | {
        (method, selection): 2 for method, cells in ways.items() for selection, _ in cells
    }
    for method, selection, difference in (("l1", "macs-0.2368-x8", -2), ("frs", "macs-0.2368", -1)):
        place = find(built, method, selection)
        assert block.numbers.loc[place]["minus_fgp_points", "mean"] == difference
        assert (place, "macs") not in block.footnotes
    assert block.best[find(built, "fgp", "macs-0.2368-x8")]
    assert "more than 0.5 %" in block.footnotes[find(built, "slimming", "macs-0.5201-x8"), "macs"][0]
