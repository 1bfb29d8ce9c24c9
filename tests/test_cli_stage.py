import copy
import subprocess
import sys
import time
import types

import pytest
import torch
from test_cli_train import RECIPE, WIDTH, run

import fgp
from fgp import layers, plans
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
    monkeypatch.setitem(sys.modules, "baselines", types.SimpleNamespace(get={"fake": fake}.__getitem__))
    norms = []
    for index, strength in enumerate((0, 0.5)):
        out = tmp_path / str(index)
        words = ("--data", digits, "--network", "vgg16", "--width", WIDTH, "--seed", 0, "--out", out)
        assert run("stage", *words, *RECIPE, "--method", "fake", "--option", f"strength={strength}") == 0
        norms.append(sum(float(parameter.detach().square().sum()) for parameter in fgp.load(out).parameters()))
    assert norms[1] < 0.95 * norms[0]


def test_a_method_that_scores_while_it_trains_goes_on_from_the_dense_network(digits, pruned, tmp_path, monkeypatch):
    class Scorer(Hook):
        def begin(self, run):
            self.model = run.model

        def scores(self):
            return {name: layer.weight.detach().sum((1, 2, 3)) for name, layer in layers.convolutions(self.model).items()}

    facts = Method(label="Fake", kind="sparse-training", start="dense")
    fake = types.SimpleNamespace(METHOD=facts, training=Scorer)
    monkeypatch.setitem(sys.modules, "baselines", types.SimpleNamespace(get={"fake": fake}.__getitem__))
    out, scores = tmp_path / "out", tmp_path / "scores"
    words = ("--data", digits, "--weights", pruned, "--seed", 0, "--out", out, "--method", "fake", "--scores", scores)
    assert run("stage", *words, *RECIPE) == 0
    found, about = load_scores(scores)
    expected = {name: layer.weight.detach().sum((1, 2, 3)) for name, layer in layers.convolutions(fgp.load(out)).items()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert about["method"] == "fake"
    assert about["spec"] == fgp.load(pruned).fgp_spec.to_dict()


def test_a_gradual_method_leaves_a_plan(digits, tmp_path, monkeypatch):
    class Last(Gradual):
        def after_step(self, images, labels):
            self.remove([(leader, c) for leader, kept in self.plan.items() for c in kept], most=20)

    fake = types.SimpleNamespace(METHOD=Method(label="Fake", kind="gradual"), pruning=Last)
    monkeypatch.setitem(sys.modules, "baselines", types.SimpleNamespace(get={"fake": fake}.__getitem__))
    out, plan = tmp_path / "out", tmp_path / "plan"
    words = ("--data", digits, "--network", "vgg16", "--width", WIDTH, "--seed", 0, "--out", out, "--method", "fake")
    assert run("stage", *words, "--selection", "macs-0.5", "--plan", plan, *RECIPE) == 0
    file = load_plan(plan)
    assert file.macs == pytest.approx(0.5 * file.dense_macs, rel=0.01)
    assert fgp.load(out).features[0].out_channels == file.channels["features.0"]
    small = tmp_path / "small"
    assert run("prune", "--weights", out, "--plan", plan, "--data", digits, "--out", small) == 0
    assert fgp.cost.count(fgp.load(small), torch.empty(1, 3, 32, 32)).macs == file.macs


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
    checkpoint = tmp_path / "killed.checkpoint"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "killed").exists()
    assert run(*words("killed")) == 0
    assert "goes on after epoch" in capsys.readouterr().err
    assert not checkpoint.exists()
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
    monkeypatch.setitem(sys.modules, "baselines", types.SimpleNamespace(get={"fake": fake, "plain": plain}.__getitem__))
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
