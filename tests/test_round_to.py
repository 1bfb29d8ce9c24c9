"""The task key `round_to`: configuration, cells, commands, DAG and tables."""

import pytest
from fgp_workflow import paper, tables
from fgp_workflow.commands import Commands
from fgp_workflow.config import load
from fgp_workflow.grid import Batch, Cell, Grid, facts
from fgp_workflow.inputs import read_yaml
from test_config import demo, set_in
from test_tables import CONFIG, METHODS, TASK, cell, find
from test_workflow import TINY, Project

from fgp.errors import FgpError
from fgp.methods import Method

ROUNDED, PLAIN = "macs-0.2655-x8", "macs-0.2655"


@pytest.fixture(scope="module")
def grid():
    raw = set_in(demo(), "tasks/digits-vgg16/round_to", 8)
    return Grid(load(set_in(raw, "tasks/digits-vgg16/at_printed", {"slimming": 0.52, "frs": 0.3}), "demo.yaml"))


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


def test_cells_at_equal_macs_are_rounded_but_for_gradual_methods(grid):
    def at_equal_macs(made):
        return made.task == "digits-vgg16" and made.selection.startswith("macs-")

    cells = set(filter(at_equal_macs, grid.cells))
    assert {facts(made.method).kind for made in cells} == {"criterion", "sparse-training", "gradual", "scratch"}
    for made in cells:
        assert made.selection.endswith("-x8") == (facts(made.method).kind != "gradual")
    named = {(made.method, made.selection) for made in cells}
    assert {("slimming", "macs-0.5200-x8"), ("frs", "macs-0.3000"), ("frs", PLAIN), ("scratch-e", ROUNDED)} <= named
    assert set(grid.cells) - cells == {made for made in Grid(load(demo(), "x")).cells if not at_equal_macs(made)}


def test_commands(grid):
    commands, folder = Commands(grid), "results/demo/digits-vgg16/seed0"

    def words(method, selection):
        return commands.cells(Batch((Cell("digits-vgg16", method, selection),)), 0).split()

    plan = words("slimming", ROUNDED)
    assert (plan[plan.index("--selection") + 1], plan[plan.index("--rule") + 1]) == (ROUNDED, "global")
    assert f"{folder}/fgp/{ROUNDED}/plan.json" in words("scratch-e", ROUNDED)
    assert f"{folder}/frs/{PLAIN}/trained.safetensors" in words("frs", PLAIN)


def test_the_dag_is_planned(tmp_path):
    project = Project(tmp_path)
    task = {**TINY["tasks"]["digits-vgg16"], "round_to": 8}
    methods = [*TINY["methods"], "group-fisher", "slimconv"]
    project.configure({**TINY, "cells_per_job": 1, "methods": methods, "tasks": {"digits-vgg16": task}})
    done = project.snakemake("--cores", "1", "all_tables", "--dry-run")
    assert done.returncode == 0, done.stderr + done.stdout
    for method in ("fgp", "l1", "slimming", "scratch-e"):
        assert f"fine-tune digits-vgg16 seed 0 {method} macs-0.5000-x8" in done.stdout
    for stage in ("gradual pruning", "fine-tune"):
        assert f"{stage} digits-vgg16 seed 0 group-fisher macs-0.5000" in done.stdout
    assert "group-fisher macs-0.5000-x8" not in done.stdout
    assert "fgp cumulative-0.40" in done.stdout


def test_tables_find_rounded_and_gradual_cells():
    methods = {
        **METHODS,
        "frs": Method("FRS", kind="gradual"),
        "scratch-of-frs": Method("Scratch of FRS", kind="scratch", plan_of="frs", equal="epochs"),
    }
    task = {**TASK, "round_to": 8, "at_printed": {"slimming": 0.5201, "frs": 0.3}, "paper": None}
    config = {**CONFIG, "methods": list(methods), "tasks": {"cifar-vgg": task}}
    ways = {
        "fgp": [("macs-0.2368-x8", 92.0)],
        "l1": [("macs-0.2368-x8", 90.0)],
        "scratch-e": [("macs-0.2368-x8", 89.0)],
        "slimming": [("macs-0.5201-x8", 94.0)],
        "frs": [("macs-0.2368", 91.0), ("macs-0.3000", 93.0)],
        "scratch-of-frs": [("macs-0.2368", 88.0)],
    }
    cells = [
        cell("cifar-vgg", method, selection, seed, after, macs=94_720_000)
        for method, made in ways.items()
        for selection, after in made
        for seed in (0, 1)
    ]
    dense = [cell("cifar-vgg", "dense", "unpruned", seed, 95.0, macs=400_000_000) for seed in (0, 1)]
    table = tables.build(1, dense + cells, config, methods, read_yaml(paper.FILE))
    measured = {(row.method, row.selection): row.n for row in table.blocks[0].rows if row.n}
    assert measured == {("dense", "unpruned"): 2} | {
        (method, selection): 2 for method, made in ways.items() for selection, _ in made
    }
    for method, selection, difference in (("l1", "macs-0.2368-x8", -2), ("frs", "macs-0.2368", -1)):
        row = find(table, method, selection)
        assert row.values["minus_fgp_points"].mean == difference
        assert "macs" not in row.notes
    assert find(table, "l1", "macs-0.2368-x8").way == "equal MACs, 23.68 %, multiples of 8"
    assert find(table, "frs", "macs-0.2368").way == "equal MACs, 23.68 %"
    assert find(table, "fgp", "macs-0.2368-x8").best
    assert "more than 0.5 %" in find(table, "slimming", "macs-0.5201-x8").notes["macs"][0]
