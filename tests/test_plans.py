"""Plan files, and the subcommands plan and prune."""

import pytest
import torch

import fgp
import fgp.models
from fgp import cost, select
from fgp.cli import main
from fgp.errors import FgpError
from fgp.files import write_sealed
from fgp.plans import load_plan, save_plan
from fgp.scoring.files import save_scores

VALUES = {
    "plan": {"a": [0, 2], "b": [1]},
    "selection": "count-0.50",
    "spec": {"name": "vgg16", "num_classes": 10, "width": 1.0, "task": "classification"},
    "macs": 5,
    "dense_macs": 9,
    "params": 4,
    "dense_params": 7,
    "kept": {"a": 2, "b": 1},
    "channels": {"a": 4, "b": 2},
    "tied": False,
    "provenance": {"command": "fgp plan"},
}


def test_round_trip(tmp_path):
    save_plan(tmp_path / "new" / "plan.json", **VALUES)
    assert load_plan(tmp_path / "new" / "plan.json").model_dump() == VALUES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": {"a": [2, 0]}}, "key plan.a: .*increasing"),
        ({"plan": {"a": [0, 0]}}, "key plan.a: .*increasing"),
        ({"plan": {"a": []}}, "key plan.a"),
        ({"plan": {"a": [-1]}}, "key plan.a.0"),
        ({"plan": {"a": [0.5]}}, "key plan.a.0"),
        ({"macs": "5"}, "key macs"),
        ({"extra": 1}, "key extra"),
        ({"kept": None}, "key kept"),
    ],
)
def test_illegal_values(tmp_path, change, message):
    path = tmp_path / "plan.json"
    with pytest.raises(FgpError, match=f"plan.json: {message}.*fgp plan"):
        save_plan(path, **{**VALUES, **change})
    assert not path.exists()
    write_sealed(path, {**VALUES, **change})
    with pytest.raises(FgpError, match=f"plan.json: {message}.*fgp plan"):
        load_plan(path)


def test_missing_key_and_missing_file(tmp_path):
    values = dict(VALUES)
    del values["tied"]
    write_sealed(tmp_path / "plan.json", values)
    with pytest.raises(FgpError, match="key tied"):
        load_plan(tmp_path / "plan.json")
    with pytest.raises(FgpError, match=r"none\.json"):
        load_plan(tmp_path / "none.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small ResNet-50 and random scores of it."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    model = fgp.models.build("resnet50", 10, 0.125)
    scores = {name: torch.rand(m.out_channels) for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    fgp.save(model, folder / "dense.safetensors")
    save_scores(folder / "scores.safetensors", scores, spec=model.fgp_spec.to_dict())
    return folder, model, scores


def commands(folder, selection, out, *more):
    """The words of `fgp plan` and those of `fgp prune`."""
    network = ["--weights", f"{folder}/dense.safetensors", "--input-size", "3", "32", "32"]
    plan = [
        "plan",
        "--scores",
        f"{folder}/scores.safetensors",
        *network,
        "--selection",
        selection,
        *more,
        "--out",
        f"{out}/plan.json",
    ]
    return plan, ["prune", *network, "--plan", f"{out}/plan.json", "--out", f"{out}/pruned.safetensors"]


@pytest.mark.parametrize(
    ("selection", "more"),
    [("macs-0.6", ["--rule", "count"]), ("cumulative-0.40", ["--tied"]), ("peak-rand-0.30-of-0.50", ["--seed", "3"])],
)
def test_command_line(files, tmp_path, selection, more):
    folder, model, scores = files
    assert [main(words) for words in commands(folder, selection, tmp_path, *more)] == [0, 0]
    file = load_plan(tmp_path / "plan.json")
    pruned = fgp.load(tmp_path / "pruned.safetensors")
    x = cost.example((3, 32, 32))
    for network, macs, params, kept in (
        (model, file.dense_macs, file.dense_params, file.channels),
        (pruned, file.macs, file.params, file.kept),
    ):
        assert (cost.count(network, x).macs, cost.count(network, x).params) == (macs, params)
        assert kept == {name: m.out_channels for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert pruned.fgp_plan == file.plan
    assert file.selection == selection
    if selection.startswith("macs"):
        assert file.plan == select.match_macs(scores, model, x, 0.6, "count")


def test_command_line_takes_the_image_size_from_the_data(files, tmp_path, monkeypatch):
    folder, *_ = files
    words, _ = commands(folder, "count-0.50", tmp_path)
    main(words)
    expected = load_plan(tmp_path / "plan.json")
    monkeypatch.setattr("fgp.data.read_header", lambda path: type("Header", (), {"shape": (3, 32, 32)}))
    start = words.index("--input-size")
    main([*words[:start], "--data", "prepared.safetensors", *words[start + 4 :]])
    assert load_plan(tmp_path / "plan.json").macs == expected.macs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--selection", "cumulativ-0.40"], "legal forms"),
        (["--selection", "macs-0.0001"], "cannot be reached"),
        (["--input-size", "3", "0", "32"], "--input-size 3 0 32"),
        (["--weights", "none.safetensors"], "none.safetensors"),
        (["--scores", "none.safetensors"], "none.safetensors"),
    ],
)
def test_command_line_errors(files, tmp_path, capsys, words, message):
    folder, *_ = files
    line, _ = commands(folder, "count-0.50", tmp_path)
    assert main([*line, *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_plans_and_scores_of_another_network(files, tmp_path, capsys):
    folder, *_ = files
    plan, prune = commands(folder, "count-0.50", tmp_path)
    main(plan)
    fgp.save(fgp.models.build("vgg16", 10, 0.125), tmp_path / "dense.safetensors")
    other = ["--weights", f"{tmp_path}/dense.safetensors"]
    assert main([*plan, *other]) == 1
    assert "scores of the network" in capsys.readouterr().err
    assert main([*prune, *other]) == 1
    assert "plan.json: made for the network" in capsys.readouterr().err
