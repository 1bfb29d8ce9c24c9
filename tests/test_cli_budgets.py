"""`fgp budgets`, and what the workflow makes of its file when it plans."""

import copy
import json

import pytest
import torch
from fgp_workflow import budgets
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout
from torch import nn

import fgp
from fgp import FgpError, cost, coupling, data, models
from fgp.cli import main
from fgp.files import read_sealed
from fgp.scoring.files import save_scores
from fgp.selections import out_of_reach, parse
from fgp.surgery import Structure

WIDTH = 1 / 8


@pytest.fixture(scope="module")
def digits32(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.safetensors"
    data.prepare("digits", path, size=32, train_limit=20, test_limit=20)
    return path


def run(digits32, *words, network="resnet50", width=WIDTH):
    given = ["budgets", "--data", digits32, "--network", network, "--width", width, *words]
    return main([str(word) for word in given])


def smallest(network, tied, multiple):
    """Really prune a network to the fewest channels that a multiple allows, and count what is left by running it."""
    torch.manual_seed(0)
    model, example = models.build(network, 10, WIDTH).eval(), cost.example((3, 32, 32))
    groups = Structure(model, torch.randn(1, 3, 32, 32), tied).prunable
    assert all(group.unit == 1 for group in groups)
    kept = {group.leader: list(range(min(multiple, group.channels))) for group in groups}
    pruned = fgp.prune(model, kept, torch.randn(1, 3, 32, 32), tied)
    left = {name: module.out_channels for name, module in pruned.named_modules() if isinstance(module, nn.Conv2d)}
    whole = {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(left.values()) & {multiple}
    if network == "vgg16" or tied:
        assert all(left[name] == min(multiple, whole[name]) for name in whole)
    return cost.count(pruned, example).macs, cost.count(model, example).macs


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_the_fewest_macs_are_those_of_networks_that_were_pruned(digits32, tmp_path, capsys, network):
    out = tmp_path / "deep/budgets.json"
    assert run(digits32, "--out", out, network=network) == 0
    found = read_sealed(out)
    assert json.loads(capsys.readouterr().out) == {key: found[key] for key in ("dense_macs", "least_macs")}
    for way, tied in (("inside", False), ("tied", True)):
        for multiple in (1, 8):
            least, dense = smallest(network, tied, multiple)
            assert found["dense_macs"] == dense
            assert found["least_macs"][way][str(multiple)] == least
        values = list(found["least_macs"][way].values())
        assert values == sorted(values)
        assert values[-1] <= found["dense_macs"]
    assert (found["least_macs"]["inside"] == found["least_macs"]["tied"]) == (network == "vgg16")
    assert found["provenance"]["stages"][0]["command"]


def test_what_only_coupled_layers_can_reach_is_refused_with_a_hint(digits32, tmp_path, capsys):
    assert run(digits32, "--selections", "macs-0.1000", "--out", tmp_path / "b.json") == 1
    error = capsys.readouterr().err
    least, dense = smallest("resnet50", False, 1)
    assert "fgp: error: resnet50 at width 0.125: macs-0.1000 cannot be met" in error
    assert f"pruning leaves {least / dense:.4f} to 1 of its {dense:,} MACs" in error
    assert "or let it prune the layers that reach a residual sum too: --tied, in a configuration the task's `tied: true`" in error
    assert not list(tmp_path.iterdir())
    assert run(digits32, "--selections", "macs-0.1000", "--tied", "--out", tmp_path / "b.json") == 0
    assert (tmp_path / "b.json").exists()


def test_a_network_without_residual_sums_gets_no_such_hint(digits32, capsys):
    assert run(digits32, "--selections", "macs-0.1000", "macs-0.2655-x8", "macs-1.0", network="vgg16", width=1) == 0
    capsys.readouterr()
    for tied in ([], ["--tied"]):
        assert run(digits32, "--selections", "macs-0.5", "macs-0.0001", *tied, network="vgg16") == 1
        error = capsys.readouterr().err
        assert "macs-0.0001 cannot be met; pruning leaves" in error
        assert "MACs; ask for more" in error
        assert "residual" not in error


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("cumulative-0.40", "--selections cumulative-0.40: names no number of MACs; give macs-BUDGET"),
        ("macs-0", "selection 'macs-0': the budget must be above 0"),
        ("mcas-0.5", "selection 'mcas-0.5': unknown"),
        ("macs-999999999999", "macs-999999999999 cannot be met; pruning leaves"),
    ],
)
def test_other_selections_are_refused(digits32, tmp_path, capsys, selection, message):
    assert run(digits32, "--selections", "macs-0.9", selection, "--out", tmp_path / "b.json") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unusual_multiple_is_looked_at_too(digits32, tmp_path):
    assert run(digits32, "--selections", "macs-0.9-x3", "--out", tmp_path / "b.json", network="vgg16") == 0
    assert read_sealed(tmp_path / "b.json")["least_macs"]["tied"]["3"] == smallest("vgg16", True, 3)[0]


@pytest.mark.parametrize("selection", ["macs-0.2000", "macs-0.2000-x8", "macs-0.4000-x8", "macs-0.0500"])
def test_what_is_said_to_be_in_reach_is_what_pruning_reaches(digits32, tmp_path, selection):
    """`fgp plan` decides by the network; the file must say the same beforehand."""
    model = models.build("resnet50", 10, WIDTH)
    fgp.save(model, tmp_path / "dense")
    scores = {name: torch.rand(m.out_channels) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    save_scores(tmp_path / "scores", scores, spec=model.fgp_spec.to_dict())
    for tied in ([], ["--tied"]):
        words = ["--weights", tmp_path / "dense", "--scores", tmp_path / "scores", "--data", digits32, "--out", tmp_path / "p"]
        planned = main([str(word) for word in ("plan", *words, "--selection", selection, *tied)])
        assert run(digits32, "--selections", selection, *tied) == planned


REACH = {"dense_macs": 1000, "least_macs": {"inside": {"1": 400, "8": 500}, "tied": {"1": 100, "8": 250}}}


@pytest.mark.parametrize(
    ("name", "tied", "advice"),
    [
        ("macs-0.4000", False, None),
        ("macs-0.3980", False, None),  # 0.5 % below is near enough
        ("macs-0.3979", False, "leaves 0.4000 to 1 of its 1,000 MACs; ask for more, or let it prune the layers that reach"),
        ("macs-0.4000-x8", False, "leaves 0.5000 to 1 of its 1,000 MACs; ask for more, or let it prune the layers that reach"),
        ("macs-0.2400-x8", False, "leaves 0.5000 to 1 of its 1,000 MACs; ask for more"),
        ("macs-0.0900", False, "leaves 0.4000 to 1 of its 1,000 MACs; ask for more"),
        ("macs-0.0900", True, "leaves 0.1000 to 1 of its 1,000 MACs; ask for more"),
        ("macs-0.1000", True, None),
        ("macs-1.0000", False, None),
        ("macs-450", False, None),
        ("macs-399", False, None),
        ("macs-390", False, "leaves 0.4000 to 1 of its 1,000 MACs; ask for more, or let it prune the layers that reach"),
        ("macs-1000", True, None),
        ("macs-1001", False, "leaves 0.4000 to 1 of its 1,000 MACs; ask for less"),
        ("macs-0.0100-x3", False, None),  # nothing is known of multiples of 3
    ],
)
def test_out_of_reach(name, tied, advice):
    problem = out_of_reach(parse(name), REACH, tied)
    if advice is None:
        assert problem is None
    else:
        assert problem.startswith(f"{name} cannot be met; pruning {advice}")
        assert ("--tied" in problem) == ("residual" in problem) == ("or let it prune" in advice)


TASK = {"dataset": "digits", "network": "resnet50", "width": WIDTH, "recipe": "short", "finetune": "short"}
CONFIG = {
    "run": "x",
    "seeds": [0],
    "datasets": {"digits": {"source": "digits", "size": 32}},
    "recipes": {"short": {"epochs": 1, "lr": 0.1}},
    "methods": ["l1", "aofp", "fgp"],
}


@pytest.fixture
def planned(digits32, tmp_path, monkeypatch):
    """A function that checks a task when the DAG is built, with the file that `fgp budgets` wrote for another, or for itself."""

    def keys_of(task):
        return Keys(Experiment(load(copy.deepcopy({**CONFIG, "tasks": {"a": TASK | task}}), "my.yaml")))

    def check(task, written_for=None):
        keys, paths = keys_of(task), Layout(str(tmp_path))
        monkeypatch.setenv("FGP_KEY", keys_of(task if written_for is None else written_for).budgets("a").key)
        assert run(digits32, "--out", paths.budgets.format(task="a")) == 0
        budgets.check(keys, paths, "my.yaml")

    return check


def test_a_budget_out_of_reach_is_refused_when_the_dag_is_built(planned):
    with pytest.raises(FgpError) as caught:
        planned({"budgets": {"much": 0.1}})
    assert str(caught.value).startswith("my.yaml: tasks.a: resnet50 at width 0.125: macs-0.1000 cannot be met; pruning leaves 0.")
    assert "in a configuration the task's `tied: true`" in str(caught.value)
    planned({"budgets": {"much": 0.1}, "tied": True})
    planned({"budgets": {"much": 0.9}})


def test_budgets_of_single_methods_and_multiples_are_checked(planned):
    with pytest.raises(FgpError, match=r"tasks\.a: .*: macs-0\.0100 cannot be met"):
        planned({"budgets": {"much": 0.9}, "at_printed": {"aofp": 0.01}})
    with pytest.raises(FgpError, match=r"tasks\.a: .*: macs-0\.8000-x32 cannot be met"):
        planned({"budgets": {"much": 0.8}, "round_to": 32, "methods": ["l1"]})
    planned({"budgets": {"much": 0.8}, "round_to": 3, "methods": ["l1"]})
    planned({"k": {"row": 0.1}})


def test_a_file_that_is_not_up_to_date_says_nothing(planned):
    planned({"budgets": {"much": 0.1}}, written_for={"width": 1})
    planned({"budgets": {"much": 0.1}, "network": "vgg16", "width": 1}, written_for={})


def test_where_nothing_was_looked_at_nothing_is_refused(tmp_path):
    keys = Keys(Experiment(load({**CONFIG, "tasks": {"a": TASK | {"budgets": {"much": 0.1}}}}, "my.yaml")))
    budgets.check(keys, Layout(str(tmp_path)), "my.yaml")


def test_a_network_is_traced_once(digits32, monkeypatch):
    traces, trace = [], coupling.trace
    monkeypatch.setattr(coupling, "trace", lambda *arguments: traces.append(arguments) or trace(*arguments))
    assert run(digits32) == 0
    assert len(traces) == 1
