"""`fgp prune --scores` chooses and removes in one process what `fgp plan` and `fgp prune --plan` do in two."""

import pytest
import torch
from torch import nn

import fgp
from fgp import checkpoint, models
from fgp.cli import main
from fgp.plans import load_plan
from fgp.provenance import chain
from fgp.scoring.files import save_scores

WIDTHS = {"vgg16": 1 / 16, "resnet50": 1 / 16}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Narrow networks of both kinds, each with random scores."""
    folder = tmp_path_factory.mktemp("scored")
    for name, width in WIDTHS.items():
        torch.manual_seed(0)
        model = models.build(name, 10, width)
        scores = {layer: torch.rand(m.out_channels) for layer, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        fgp.save(model, folder / name, provenance={"command": "fgp train", "key": "k"})
        made = {"provenance": {"command": "fgp score", "key": "s"}, "seconds": 1.25}
        save_scores(folder / f"{name}-scores", scores, spec=model.fgp_spec.to_dict(), **made)
    return folder


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    ("network", "choice", "repair"),
    [
        ("vgg16", ("--selection", "macs-0.5", "--rule", "count"), ()),
        ("vgg16", ("--selection", "global-0.50"), ()),
        ("resnet50", ("--selection", "macs-0.5-x2", "--tied"), ()),
        ("resnet50", ("--selection", "peak-rand-0.30-of-0.50"), ()),
        ("vgg16", ("--selection", "macs-0.5", "--rule", "global"), ("--repair", "thinet", "--images", 30, "--batch-size", 16)),
        ("resnet50", ("--selection", "cumulative-0.60", "--tied"), ("--repair", "thinet", "--images", 30)),
    ],
)
def test_one_step_is_both(digits, scored, tmp_path, network, choice, repair):
    weights, scores = ("--weights", scored / network, "--data", digits), ("--scores", scored / f"{network}-scores")
    both, seed = ("--device", "cpu", "--threads", 1), ("--seed", 3)
    assert run("plan", *weights, *scores, *choice, *seed, "--out", tmp_path / "plan.json") == 0
    two = (*weights, "--plan", tmp_path / "plan.json", *repair, *seed, *both, "--out", tmp_path / "two")
    assert run("prune", *two) == 0
    one = (*weights, *scores, *choice, *repair, *seed, *both, "--write-plan", tmp_path / "one.json", "--out", tmp_path / "one")
    assert run("prune", *one) == 0

    plans = [load_plan(tmp_path / name).model_dump() for name in ("one.json", "plan.json")]
    made = [plan.pop("provenance") for plan in plans]
    assert plans[0] == plans[1]
    assert [(origin["rule"], origin["seed"]) for origin in made] == [(made[1]["rule"], 3)] * 2
    networks = [fgp.load(tmp_path / name) for name in ("one", "two")]
    states = [model.state_dict() for model in networks]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert networks[0].fgp_plan == networks[1].fgp_plan == plans[0]["plan"]
    whole = fgp.load(scored / network).state_dict()
    assert sum(t.numel() for t in states[0].values()) < sum(t.numel() for t in whole.values())
    about = [checkpoint.read_metadata(tmp_path / name) for name in ("one", "two")]
    assert about[0]["selection"] == about[1]["selection"] == choice[1]
    assert (about[0]["score_seconds"], about[1]["score_seconds"]) == (1.25, None)
    _, *one_step = (stage["command"].split()[1] for stage in chain(about[0]["provenance"]))
    _, *two_steps = (stage["command"].split()[1] for stage in chain(about[1]["provenance"]))
    assert (one_step, two_steps) == (["train", "score", "prune"], ["train", "score", "plan", "prune"])


def test_the_seed_is_that_of_the_choice(digits, scored, tmp_path):
    choice = ("--selection", "rand-0.30", "--scores", scored / "vgg16-scores", "--weights", scored / "vgg16", "--data", digits)
    for seed, name in ((0, "a"), (1, "b"), (0, "c")):
        words = ("--seed", seed, "--write-plan", tmp_path / f"{name}.json", "--out", tmp_path / name)
        assert run("prune", *choice, *words) == 0
    a, b, c = (load_plan(tmp_path / f"{name}.json").plan for name in "abc")
    assert a == c != b


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scores", "{scores}", "--write-plan", "{out}.json"), "--selection, --write-plan: give both with --scores"),
        (("--scores", "{scores}", "--selection", "macs-0.5"), "--selection, --write-plan: give both with --scores"),
        (("--plan", "p.json", "--selection", "macs-0.5"), "--selection, --write-plan: give both with --scores, and neither with"),
        (("--plan", "p.json", "--write-plan", "{out}.json"), "--selection, --write-plan: give both with --scores, and neither"),
        (("--plan", "absent.json"), "absent.json: no such file"),
        (("--scores", "{scores}", "--selection", "mcas-0.5", "--write-plan", "{out}.json"), "selection 'mcas-0.5': unknown"),
        (("--scores", "{scores}", "--selection", "macs-0.0001", "--write-plan", "{out}.json"), "cannot be reached"),
        (("--scores", "{other}", "--selection", "macs-0.5", "--write-plan", "{out}.json"), "resnet50-scores: scores of the net"),
        (("--plan", "p.json", "--repair", "tihnet"), "method 'tihnet': no such file in baselines/; use thinet"),
        (
            ("--scores", "{scores}", "--selection", "macs-0.5", "--write-plan", "{out}.json", "--repair", "l1"),
            "--repair l1: this method adjusts no weights; leave --repair out",
        ),
    ],
)
def test_a_refusal_names_its_cause(digits, scored, tmp_path, capsys, words, message):
    files = {"scores": scored / "vgg16-scores", "other": scored / "resnet50-scores", "out": tmp_path / "plan"}
    words = [word.format(**files) for word in words]
    assert run("prune", "--weights", scored / "vgg16", "--data", digits, *words, "--out", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [(), ("--plan", "p.json", "--scores", "s")])
def test_a_plan_or_scores_are_asked_for(digits, scored, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        run("prune", "--weights", scored / "vgg16", "--data", digits, *words, "--out", tmp_path / "out")
    assert "--plan" in capsys.readouterr().err
