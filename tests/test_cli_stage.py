import copy
import subprocess
import sys
import time
import types

import pytest
import torch
from test_cli_train import RECIPE, WIDTH, run

import fgp
from fgp import checkpoint, plans
from fgp.layers import convolutions
from fgp.methods import Method
from fgp.plans import load_plan
from fgp.scoring.files import load_scores
from fgp.surgery import Structure
from fgp.train.gradual import Gradual
from fgp.train.hooks import Hook, Penalty


def test_a_method_takes_part_in_the_training(digits, tmp_path, monkeypatch):
    def training(*, strength: float = 1.0):
        return Penalty(lambda model: strength * sum(parameter.square().sum() for parameter in model.parameters()))

    fake = types.SimpleNamespace(METHOD=Method(label="Fake", kind="sparse-training"), training=training, score=print)
    install(monkeypatch, fake=fake)
    norms = []
    for index, strength in enumerate((0, 0.5)):
        out = tmp_path / str(index)
        words = ("--data", digits, "--network", "vgg16", "--width", WIDTH, "--seed", 0, "--out", out)
        assert run("stage", *words, *RECIPE, "--method", "fake", "--option", f"strength={strength}") == 0
        norms.append(sum(float(parameter.detach().square().sum()) for parameter in fgp.load(out).parameters()))
    assert norms[1] < 0.95 * norms[0]


def install(monkeypatch, **methods):
    """Let the command line find these modules in place of those in `baselines/`."""
    monkeypatch.setitem(sys.modules, "baselines", types.SimpleNamespace(get=methods.__getitem__))


class Scorer(Hook):
    """Scores while it trains, by thirds that float32 does not hold exactly in few digits."""

    def begin(self, run):
        self.model = run.model

    def scores(self):
        return {name: layer.weight.detach().double().sum((1, 2, 3)) / 3 for name, layer in convolutions(self.model).items()}


def test_a_method_that_scores_while_it_trains_goes_on_from_the_dense_network(digits, pruned, tmp_path, monkeypatch, capsys):
    scoring = types.SimpleNamespace(METHOD=Method(label="Fake", kind="sparse-training", start="dense"), training=Scorer)
    install(monkeypatch, fake=scoring, other=scoring)
    out, scores = tmp_path / "out", tmp_path / "scores"
    assert run("stage", "--data", digits, "--weights", pruned, "--seed", 0, "--out", out, "--method", "fake", *RECIPE) == 0
    words = ("score", "--data", digits, "--seed", 0, "--out", scores)
    assert run(*words, "--weights", out, "--method", "fake") == 0
    found, about = load_scores(scores)
    expected = {name: layer.weight.detach().double().sum((1, 2, 3)) / 3 for name, layer in convolutions(fgp.load(out)).items()}
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], values.float())
    assert about["method"] == "fake"
    assert about["images"] == 0
    assert about["seconds"] == checkpoint.read_metadata(out)["score_seconds"] > 0
    assert about["spec"] == fgp.load(pruned).fgp_spec.to_dict()
    for weights, method in ((pruned, "fake"), (out, "other")):
        assert run(*words, "--weights", weights, "--method", method) == 1
        assert f"--weights {weights}: {method} scores while it trains, and this file holds none" in capsys.readouterr().err


def test_scores_that_are_not_finite_leave_nothing(digits, pruned, tmp_path, monkeypatch, capsys):
    class Broken(Scorer):
        def scores(self):
            return {name: values / 0 for name, values in super().scores().items()}

    install(monkeypatch, fake=types.SimpleNamespace(METHOD=Method("F", kind="sparse-training", start="dense"), training=Broken))
    words = ("--data", digits, "--weights", pruned, "--seed", 0, "--out", tmp_path / "out", "--method", "fake")
    assert run("stage", *words, *RECIPE) == 1
    assert "--method fake: scores of features.0 hold NaN or infinity; lower the learning rate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("selection", ["macs-0.5", "macs-0.31"])
def test_a_gradual_method_leaves_the_pruned_network_and_its_plan(digits, tmp_path, monkeypatch, selection):
    class Last(Gradual):
        def begin(self, run):
            super().begin(run)
            trained.append(run.model)

        def after_step(self, images, labels):
            self.remove([(leader, c) for leader, kept in self.plan.items() for c in kept], most=20)

    trained = []
    install(monkeypatch, fake=types.SimpleNamespace(METHOD=Method(label="Fake", kind="gradual"), pruning=Last))
    out, plan = tmp_path / "out", tmp_path / "plan"
    words = ("--data", digits, "--network", "vgg16", "--width", WIDTH, "--seed", 0, "--out", out, "--method", "fake")
    assert run("stage", *words, "--selection", selection, "--plan", plan, *RECIPE) == 0
    file, small = load_plan(plan), fgp.load(out)
    assert file.macs == pytest.approx(float(selection.removeprefix("macs-")) * file.dense_macs, rel=0.01)
    cost = fgp.cost.count(small, torch.empty(1, 3, 32, 32))
    assert (cost.macs, cost.params) == (file.macs, file.params)
    assert {name: layer.out_channels for name, layer in convolutions(small).items()} == file.kept
    assert small.fgp_plan == file.plan
    assert 0 < sum(file.kept.values()) < sum(file.channels.values())

    # A network of the dense shape whose layers do not read the removed channels: VGG-16 is a chain.
    masked = fgp.models.build("vgg16", 10, WIDTH)
    masked.load_state_dict(trained[0].state_dict())
    names = list(convolutions(masked))
    readers = [*(masked.get_submodule(name) for name in names[1:]), masked.classifier]
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        whole = masked.eval()(images)
        for name, reader in zip(names, readers, strict=True):
            removed = sorted(set(range(file.channels[name])) - set(file.plan.get(name, range(file.channels[name]))))
            reader.weight[:, removed] = 0
        torch.testing.assert_close(small.eval()(images), masked(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(small(images), whole, rtol=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "vgg16", "--method", "l1"), "sparse-training"),
        (
            ("--network", "vgg16", "--method", "slimming", "--option", "strenght=1"),
            "slimming has no such option; did you mean strength?",
        ),
        (
            ("--network", "vgg16", "--method", "slimming", "--option", "strength=-1"),
            "--option strength: '-1'; give a number of at least 0",
        ),
        (("--network", "vgg16", "--method", "slimming", "--option", "strength"), "expected KEY=VALUE"),
        (("--network", "vgg16", "--method", "slimming", "--selection", "macs-0.5"), "--selection"),
        (("--weights", "missing.safetensors", "--method", "slimming"), "give --network"),
        (("--network", "vgg16", "--method", "frs"), "give --selection"),
        (("--network", "vgg16", "--method", "frs", "--selection", "macs-0.5"), "give --plan"),
        (("--network", "vgg16", "--method", "frs", "--selection", "count-0.5", "--plan", "p"), "give macs-BUDGET"),
        (("--network", "vgg16", "--method", "frs", "--selection", "macs-0.5-x8", "--plan", "p"), "give macs-BUDGET"),
        (("--network", "vgg16", "--method", "cap"), "meant for segmentation"),
    ],
)
def test_a_failure_names_its_cause_and_leaves_nothing(digits, tmp_path, capsys, words, message):
    assert run("stage", "--data", digits, "--seed", 0, "--out", tmp_path / "m", *RECIPE, *words) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "extra"), [("slimming", ("--network", "vgg16")), ("frs", ("--network", "vgg16", "--selection", "macs-0.5"))]
)
def test_a_killed_stage_goes_on_to_the_same_result(digits, tmp_path, capsys, method, extra):
    def words(name):
        plan = ("--plan", str(tmp_path / f"{name}.json")) if method == "frs" else ()
        shared = ("stage", "--data", digits, "--seed", 0, "--method", method, "--width", WIDTH, "--out", tmp_path / name)
        return [*shared, *extra, *plan, "--epochs", 30, "--batch-size", 16, "--lr", 0.02, "--checkpoint-seconds", 0]

    killed = [str(word) for word in (*words("killed"), "--device", "cpu", "--threads", "1")]
    process = subprocess.Popen([sys.executable, "-m", "fgp", *killed], stderr=subprocess.DEVNULL)
    state = tmp_path / "killed.checkpoint"
    while process.poll() is None and not state.exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert state.exists()
    assert not (tmp_path / "killed").exists()
    assert run(*words("killed")) == 0
    assert "goes on after epoch" in capsys.readouterr().err
    assert not state.exists()
    assert run(*words("whole")) == 0
    for resumed, straight in zip(*(fgp.load(tmp_path / name).parameters() for name in ("killed", "whole")), strict=True):
        assert torch.equal(resumed, straight)
    if method == "frs":
        assert load_plan(tmp_path / "killed.json").plan == load_plan(tmp_path / "whole.json").plan


def test_a_method_repairs_and_fine_tunes_in_its_own_way(digits, tmp_path, monkeypatch):
    def repair(model, plan, batches, seed):
        seen.append((plan, sum(len(labels) for _, labels in batches), seed))
        repaired = copy.deepcopy(model)
        repaired.classifier.bias.data += 7
        return repaired

    class Loss(Hook):
        def criterion(self, default):
            return lambda output, labels: 0 * default(output, labels) + output.square().mean()

    seen = []
    fake = types.SimpleNamespace(METHOD=Method(label="Fake"), repair=repair, finetuning=Loss, score=print)
    plain = types.SimpleNamespace(METHOD=Method(label="Plain"), score=print)
    install(monkeypatch, fake=fake, plain=plain)
    torch.manual_seed(0)
    model = fgp.models.build("vgg16", 10, WIDTH)
    dense, plan, small, tuned = (tmp_path / name for name in ("dense", "plan", "small", "tuned"))
    fgp.save(model, dense)
    structure = Structure(model, torch.empty(1, 3, 32, 32))
    chosen = {"features.0": [0, 1, 3]}
    facts = plans.facts(structure, chosen, False)
    plans.save_plan(plan, **facts, selection="count-0.75", spec=model.fgp_spec.to_dict(), provenance={})
    pruned = ("prune", "--weights", dense, "--plan", plan, "--data", digits, "--images", 40, "--seed", 3, "--out", small)
    assert run(*pruned, "--repair", "plain") == 1
    assert run(*pruned, "--repair", "fake") == 0
    assert seen == [(chosen, 40, 3)]
    assert torch.equal(fgp.load(small).classifier.bias, model.classifier.bias + 7)
    tune = ("finetune", "--data", digits, "--weights", small, "--seed", 0, "--out", tuned, *RECIPE)
    assert run(*tune, "--method", "plain") == 1
    assert run(*tune, "--method", "fake") == 0
    assert fgp.load(tuned).classifier.bias.mean() < 6.9  # cross-entropy leaves the mean at 7
