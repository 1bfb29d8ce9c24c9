"""Each cell proves its provenance when it is collected: results of another configuration are refused."""

import copy
import json

import pytest
import yaml
from fgp_workflow import collect
from fgp_workflow.commands import Commands
from fgp_workflow.config import load
from fgp_workflow.grid import Cell, Grid
from fgp_workflow.proof import Proof

from fgp import provenance
from fgp.errors import FgpError

TASK, MACS = "digits-vgg16", "macs-0.5000"
CONFIG = {
    "run": "x",
    "device": "cpu",
    "seeds": [0, 1],
    "datasets": {"digits": {"source": "digits", "size": 32}},
    "recipes": {"long": {"epochs": 2, "lr": 0.1}, "short": {"epochs": 1, "lr": 0.1}},
    "tasks": {
        TASK: {
            **{"dataset": "digits", "network": "vgg16", "width": 0.125, "recipe": "long", "finetune": "short"},
            **{"k": {"FGP+": 0.4}, "budgets": {"FGP+": 0.5}},
        }
    },
    "methods": ["fgp", "l1", "slimming", "dcp", "aofp", "group-fisher", "slimconv", "scratch-e"],
    "scoring": {"images": 100},
    "cells_per_job": 2,
}
KEPT = {"a": 8, "b": 8}
HOW = "delete it and run snakemake again"


def grid(**changes):
    return Grid(load(copy.deepcopy(CONFIG) | changes, "config.yaml"))


def task(**changes):
    return {TASK: CONFIG["tasks"][TASK] | changes}


def provenance_of(stages, minute=0):
    """The provenance that a chain of commands leaves, one a minute."""
    times = [f"2026-01-02T03:{minute + i:02}:00+00:00" for i in range(len(stages))]
    chain = [
        {"command": f"fgp {command}", "code": code, "finished": time}
        for (command, code), time in zip(stages.items(), times, strict=True)
    ]
    chain[0]["content"] = "data"
    return chain[-1] | {
        "stages": chain[:-1],
        **{"recipe": {"lr": 0.1}, "commit": None, "dirty": None, "versions": {}, "hardware": {}, "threads": 1},
    }


def metrics(made, method, selection, seed=0):
    """What a run of the configuration `made` writes."""
    network = "slimconv_vgg16" if method == "slimconv" else "vgg16"
    stages = Proof(made).stages(Cell(TASK, method, selection), seed)
    return {
        **{
            "task": TASK,
            "dataset": "digits",
            "network": network,
            "width": made.tasks[TASK].width,
            "seed": seed,
            "method": method,
        },
        **{"selection": selection, "metric": "top1", "before": None, "after": 90.0},
        **{
            "macs": 100,
            "params": 10,
            "dense_macs": 100,
            "dense_params": 10,
            "kept": KEPT,
            "channels": KEPT,
            "score_seconds": None,
        },
        **{"score_seconds": None, "train_seconds": 1.0, "epochs": 1, "provenance": provenance_of(stages)},
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def latency(made, cells, seed):
    """What the measurement of the cells of the configuration `made` writes."""
    proof, commands = Proof(made), Commands(made)
    numbers = {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 2.5, "images_per_second": 500.0}
    return {
        "latency": {name: {"1": numbers} for name in cells},
        "provenance": provenance_of({commands.latency(TASK, seed): proof._codes.latency(TASK)})
        | {"networks": {name: provenance.digest(value["provenance"]) for name, value in cells.items()}},
    }


def run(folder, made):
    """Write all that a run of a configuration leaves for its cells; return the metrics of seed 0."""
    (folder / "config.yaml").write_text(yaml.safe_dump(made.config.model_dump(mode="json")))
    for seed in made.config.seeds:
        names = ["dense/unpruned", *(cell.path for cell in made.cells)]
        cells = {name: metrics(made, *name.split("/"), seed) for name in names}
        for name, value in cells.items():
            write(folder / TASK / f"seed{seed}" / name / "metrics.json", value)
        write(folder / TASK / f"seed{seed}" / "latency.json", latency(made, cells, seed))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(folder, grid())
    return folder


@pytest.fixture
def place(finished):
    """A function that puts a file of another run into place; undone afterwards."""
    undone = []

    def put(name, value):
        path = finished / TASK / name
        undone.append((path, path.read_text()))
        write(path, value)
        return path

    yield put
    for path, text in reversed(undone):
        path.write_text(text)


def refused(finished, capsys, path, *words):
    assert collect.main(["--config", str(finished / "config.yaml"), "--out", str(finished / "cells.csv")]) == 1
    error = capsys.readouterr().err
    for word in (str(path), *words, HOW):
        assert word in error


def test_the_cells_of_the_configuration_are_taken(finished):
    assert collect.main(["--config", str(finished / "config.yaml"), "--out", str(finished / "cells.csv")]) == 0
    rows = collect.read(finished / "cells.csv")
    assert len(rows) == 2 * (1 + len(grid().cells))
    assert {row["method"] for row in rows} == {"dense", *CONFIG["methods"]}


@pytest.mark.parametrize(
    ("method", "selection", "stages"),
    [
        ("dense", "unpruned", "data train"),
        ("l1", MACS, "data train score plan prune finetune"),
        ("slimming", MACS, "data stage score plan prune finetune"),
        ("dcp", MACS, "data train stage plan prune finetune"),
        ("aofp", MACS, "data train stage prune finetune"),
        ("slimconv", "unpruned", "data train"),
        ("scratch-e", MACS, "data train score plan prune train"),
    ],
)
def test_stages_of_every_kind(method, selection, stages):
    commands = Proof(grid()).stages(Cell(TASK, method, selection), 0)
    assert " ".join(command.split()[0] for command in commands) == stages


FOREIGN = {
    "recipe of fine-tuning": ({"recipes": CONFIG["recipes"] | {"short": {"epochs": 1, "lr": 0.2}}}, "--lr 0.2", "--lr 0.1"),
    "recipe of the dense network": (
        {"recipes": CONFIG["recipes"] | {"long": {"epochs": 9, "lr": 0.1}}},
        "--epochs 9",
        "--epochs 2",
    ),
    "data": ({"datasets": {"digits": {"source": "digits", "size": 16}}}, "--size 16", "--size 32"),
    "train_limit": ({"datasets": {"digits": {"source": "digits", "size": 32, "train_limit": 11}}}, "--train-limit 11", "nothing"),
    "scoring": ({"scoring": {"images": 50}}, "--images 50", "--images 100"),
    "option": ({"tasks": task(options={"fgp": {"form": "abs"}})}, "--option form=abs", "nothing"),
    "tied": ({"tasks": task(tied=True)}, "--tied", "nothing"),
    "device": ({"device": "cuda"}, "--device cuda", "--device cpu"),
    "run": ({"run": "y"}, "--out results/y/data/digits.safetensors", "--out results/x/data/digits.safetensors"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_cell_of_another_configuration(finished, place, capsys, case):
    changes, found, expected = FOREIGN[case]
    path = place(f"seed0/fgp/{MACS}/metrics.json", metrics(grid(**changes), "fgp", MACS))
    refused(finished, capsys, path, f"found {found}", f"asks for {expected}", "provenance: command of fgp")


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [("width", 0.25, "0.125"), ("network", "resnet50", "vgg16"), ("dataset", "digits32", "digits")],
)
def test_a_cell_of_another_network_or_data_set(finished, place, capsys, entry, value, expected):
    path = place(f"seed0/l1/{MACS}/metrics.json", metrics(grid(), "l1", MACS) | {entry: value})
    refused(finished, capsys, path, f"{entry}: found {value}", f"asks for {expected}")


def test_a_cell_of_another_width(finished, place, capsys):
    value = metrics(grid(tasks=task(width=0.25)), "l1", MACS) | {"width": 0.125}
    path = place(f"seed0/l1/{MACS}/metrics.json", value)
    refused(finished, capsys, path, "found --width 0.25", "asks for --width 0.125")


def test_a_cell_of_another_seed(finished, place, capsys):
    path = place(f"seed0/l1/{MACS}/metrics.json", metrics(grid(), "l1", MACS, seed=1) | {"seed": 0})
    refused(finished, capsys, path, "--seed 1", "--seed 0")


def test_a_cell_of_another_method(finished, place, capsys):
    path = place(f"seed0/l1/{MACS}/metrics.json", metrics(grid(), "fgp", MACS) | {"method": "l1"})
    refused(finished, capsys, path, "--method fgp", "--method l1")


def test_a_cell_of_another_selection(finished, place, capsys):
    value = metrics(grid(), "fgp", "cumulative-0.40") | {"selection": MACS}
    path = place(f"seed0/fgp/{MACS}/metrics.json", value)
    refused(finished, capsys, path, "--selection cumulative-0.40", f"--selection {MACS}")


@pytest.mark.parametrize("stage", range(6))
def test_a_cell_whose_stage_ran_other_code(finished, place, capsys, stage):
    value = metrics(grid(), "l1", MACS)
    chain = [*value["provenance"]["stages"], value["provenance"]]
    chain[stage]["code"] = "0123456789ab"
    path = place(f"seed0/l1/{MACS}/metrics.json", value)
    refused(
        finished, capsys, path, f"code of {' '.join(chain[stage]['command'].split()[:2])}: found 0123456789ab", "present code"
    )


@pytest.mark.parametrize("stage", range(5))
def test_a_cell_that_lacks_a_stage(finished, place, capsys, stage):
    value = metrics(grid(), "l1", MACS)
    lacking = value["provenance"]["stages"].pop(stage)["command"]
    path = place(f"seed0/l1/{MACS}/metrics.json", value)
    refused(finished, capsys, path, "found no such stage", f"asks for {lacking}")


def test_a_cell_with_a_stage_too_many(finished, place, capsys):
    value = metrics(grid(), "l1", MACS)
    value["provenance"]["stages"].append({"command": "fgp finetune --elsewhere", "code": None, "finished": None})
    path = place(f"seed0/l1/{MACS}/metrics.json", value)
    refused(finished, capsys, path, "a stage that has no part in it: found fgp finetune --elsewhere")


def test_a_cell_of_an_earlier_dense_network(finished, place, capsys):
    value = metrics(grid(), "l1", MACS)
    value["provenance"]["stages"][1]["finished"] = "2025-01-01T00:00:00+00:00"
    path = place(f"seed0/l1/{MACS}/metrics.json", value)
    refused(finished, capsys, path, "dense network of: found 2025-01-01")


@pytest.mark.parametrize("cell", [f"l1/{MACS}", f"slimming/{MACS}"])
def test_a_cell_of_other_images_under_the_same_name(finished, place, capsys, cell):
    value = metrics(grid(), *cell.split("/"))
    value["provenance"]["stages"][0]["content"] = "other"
    path = place(f"seed0/{cell}/metrics.json", value)
    refused(finished, capsys, path, "content of the prepared data: found ['other']", "asks for ['data'], as ")


@pytest.mark.parametrize(("entry", "value"), [("dense_macs", 101), ("dense_params", 11), ("channels", {"a": 8, "b": 9})])
def test_a_cell_with_another_dense_twin(finished, place, capsys, entry, value):
    path = place(f"seed0/l1/{MACS}/metrics.json", metrics(grid(), "l1", MACS) | {entry: value})
    refused(finished, capsys, path, f"{entry}: found {value}")


def test_a_dense_network_of_another_recipe(finished, place, capsys):
    changes, found, _ = FOREIGN["recipe of the dense network"]
    path = place("seed0/dense/unpruned/metrics.json", metrics(grid(**changes), "dense", "unpruned"))
    refused(finished, capsys, path, f"found {found}")


def test_a_latency_file_of_another_seed(finished, place, capsys):
    path = place("seed0/latency.json", json.loads((finished / TASK / "seed1/latency.json").read_text()))
    refused(finished, capsys, path, "command of fgp measure", "seed1")


def test_a_latency_file_of_another_setting(finished, place, capsys):
    names = ["dense/unpruned", *(cell.path for cell in grid().cells)]
    cells = {name: metrics(grid(), *name.split("/")) for name in names}
    path = place("seed0/latency.json", latency(grid(latency={"seconds": 9.0}), cells, 0))
    refused(finished, capsys, path, "found --seconds 9.0", "asks for --seconds 1.0")


@pytest.mark.parametrize("name", ["dense/unpruned", f"slimming/{MACS}"])
def test_a_latency_file_of_earlier_networks(finished, place, capsys, name):
    value = json.loads((finished / TASK / "seed0/latency.json").read_text())
    value["provenance"]["networks"][name] = "0123456789abcdef"
    path = place("seed0/latency.json", value)
    refused(finished, capsys, path, f"networks.{name}: found 0123456789abcdef", "the network of that cell")


def test_a_cell_that_the_configuration_does_not_have(finished):
    proof = Proof(grid(methods=["fgp"]))
    with pytest.raises(FgpError, match=f"found {TASK} l1/{MACS}, this configuration asks for no such cell"):
        proof.check_cell("metrics.json", metrics(grid(), "l1", MACS))
    with pytest.raises(FgpError, match="found elsewhere dense/unpruned"):
        proof.check_cell("metrics.json", metrics(grid(), "dense", "unpruned") | {"task": "elsewhere"})
