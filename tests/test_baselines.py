import copy
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from fgp_workflow import kinds as workflow_kinds
from reference_fgp import literal_scores, randomise
from scoring_networks import classification, residual, segmentation
from torch import nn

import baselines
from fgp import FgpError
from fgp.layers import norms_after
from fgp.methods import KINDS, RULES, Method
from fgp.models import NAMES, build
from fgp.models.names import NETWORKS

METHODS = baselines.discover()
SCORING = [name for name, module in METHODS.items() if hasattr(module, "score")]
DATA_FREE = {"random"}  # scores that do not follow the channels


class Small(nn.Module):
    """Two normalised convolutions, so that every method can score it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.linear(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))


def small():
    torch.manual_seed(0)
    return randomise(Small())


def permuted(model, order):
    """Return a copy with the channels of conv1 in another order: the same function."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for owner in (model.conv1, model.norm1):
            for values in owner.state_dict().values():
                if values.ndim:
                    values.copy_(values[order].clone())
        model.conv2.weight.copy_(model.conv2.weight[:, order].clone())
    return model


def batches():
    images, labels = classification(count=8)
    return [(images[:5].float(), labels[:5]), (images[5:].float(), labels[5:])]


@pytest.mark.parametrize("name", METHODS)
def test_facts_and_header(name):
    module = METHODS[name]
    facts, header = module.METHOD, module.__doc__
    assert facts.label
    assert facts.kind in KINDS
    assert facts.selection in ("cumulative", "count", "global")
    assert facts.tasks <= {"classification", "segmentation"}
    assert facts.needs <= {"weights", "forward", "gradient", "labels", "seed"}
    for line in ("Paper: ", "Equation: ", "Official repository: ", "Reads the channel: ", "Deviations:\n1. "):
        assert f"\n{line}" in header, line
    assert "arXiv" in header


@pytest.mark.parametrize("name", SCORING)
def test_scores_keep_the_contract(name):
    method, model = METHODS[name], small()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state()
    scores = method.score(model, batches(), 3)
    assert {layer: tuple(values.shape) for layer, values in scores.items()} == {"conv1": (5,), "conv2": (6,)}
    for values in scores.values():
        assert values.dtype == torch.float32
        assert values.device.type == "cpu"
        assert not values.requires_grad
        assert values.isfinite().all()
    again = method.score(model, batches(), 3)
    assert all(torch.equal(scores[layer], again[layer]) for layer in scores)
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for module in model.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("name", [name for name in SCORING if name not in DATA_FREE])
def test_permuting_channels_permutes_scores(name):
    score, model, order = METHODS[name].score, small(), torch.tensor([3, 0, 4, 1, 2])
    scores = score(model, batches(), 0)
    assert len(set(scores["conv1"].tolist())) > 1
    torch.testing.assert_close(score(permuted(model, order), batches(), 0)["conv1"], scores["conv1"][order])


def test_fgp_is_the_literal_formula_and_takes_variants():
    model, data = small(), batches()
    for options in ({}, {"form": "abs"}, {"classes": "all"}):
        expected = literal_scores(model, data, **options)
        for layer, values in METHODS["fgp"].score(model, data, 0, **options).items():
            torch.testing.assert_close(values.double(), expected[layer], rtol=1e-4, atol=1e-6)
    with pytest.raises(FgpError, match="did you mean form"):
        METHODS["fgp"].score(model, data, 0, from_="abs")


def test_l1_by_loops():
    model = small()
    scores = METHODS["l1"].score(model, [], 0)["conv2"]
    for i, kernel in enumerate(model.conv2.weight.tolist()):
        assert scores[i].item() == pytest.approx(sum(abs(w) for plane in kernel for row in plane for w in row), rel=1e-5)


def test_fpgm_by_pairs():
    model = small()
    filters = model.conv2.weight.detach().double()
    filters[1] = filters[0]
    model.conv2.weight.data.copy_(filters)
    scores = METHODS["fpgm"].score(model, [], 0)["conv2"]
    for i in range(6):
        assert scores[i].item() == pytest.approx(
            sum(float((filters[i] - filters[j]).pow(2).sum().sqrt()) for j in range(6)), rel=1e-5
        )


def test_random_is_uniform_and_follows_the_seed():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4000, 1), nn.Conv2d(1, 4000, 1)

    score = METHODS["random"].score
    scores = score(Wide(), [], 1)
    for values in scores.values():
        counts = torch.histc(values, 10, 0, 1)
        assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001
    assert abs(torch.corrcoef(torch.stack(list(scores.values())))[0, 1]) < 0.06
    assert not torch.equal(scores["a"], score(Wide(), [], 2)["a"])
    alone = nn.Module()
    alone.b = nn.Conv2d(1, 4000, 1)
    assert torch.equal(score(alone, [], 1)["b"], scores["b"])


def test_slimming_penalty_has_the_official_subgradient():
    model = small()
    for strength, expected in ((None, 1e-4), (0.02, 0.02), ("0.02", 0.02)):
        model.zero_grad()
        METHODS["slimming"].training(strength=strength).penalty(model).backward()
        for norm in (model.norm1, model.norm2):
            torch.testing.assert_close(norm.weight.grad, expected * norm.weight.sign())
            assert norm.bias.grad is None
    assert METHODS["slimming"].training(strength=2.0).penalty(model).item() == pytest.approx(
        2 * sum(abs(gamma) for norm in (model.norm1, model.norm2) for gamma in norm.weight.tolist())
    )


@pytest.mark.parametrize(("network", "strength"), [("vgg16", 1e-4), ("segnet", 1e-4), ("resnet50", 1e-5), ("deeplabv3", 1e-5)])
def test_slimming_strength_follows_the_network(network, strength):
    model = build(network, 4, 1 / 32)
    count = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    penalty = METHODS["slimming"].training().penalty(model)
    scales = sum(m.weight.abs().sum().item() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert count > 50
    assert penalty.item() == pytest.approx(strength * scales, rel=1e-4)


@pytest.mark.parametrize("strength", [-1, "much", float("nan"), float("inf")])
def test_slimming_strength_is_checked(strength):
    with pytest.raises(FgpError, match="strength"):
        METHODS["slimming"].training(strength=strength)


def test_slimming_pairs_by_tensors_not_by_order():
    class Twisted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_b, self.norm_a = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))).mean((2, 3))

    model = randomise(Twisted())
    images = batches()[0][0]
    assert norms_after(model, images) == {"a": "norm_a", "b": "norm_b"}
    scores = METHODS["slimming"].score(model, batches(), 0)
    assert torch.equal(scores["a"], model.norm_a.weight.abs())
    assert torch.equal(scores["b"], model.norm_b.weight.abs())


def test_norms_after_ignores_what_was_written_over():
    class Overwritten(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(torch.relu_(self.conv(x)))

    assert norms_after(Overwritten(), torch.randn(1, 3, 4, 4)) == {"conv": None}


@pytest.mark.parametrize("network", [name for name in NAMES if NETWORKS[name].scalable and not NETWORKS[name].replaces])
def test_slimming_scores_the_networks_of_the_suite(network):
    torch.manual_seed(0)
    model = randomise(build(network, 4, 1 / 32))
    images = torch.randn(2, 3, 32, 32)
    scores = METHODS["slimming"].score(model, [(images, None)], 0)
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert list(scores) == list(convolutions)
    unpaired = [name for name, norm in norms_after(model, images).items() if norm is None]
    assert unpaired == ({"deeplabv3": ["head.6", "auxiliary.4"]}.get(network, []))
    assert all(torch.equal(scores[name], torch.ones(4)) for name in unpaired)


def test_slimming_refuses_what_it_cannot_score():
    images, labels = segmentation()
    METHODS["slimming"].score(residual(segmentation=True), [(images, labels)], 0)
    model = small()
    model.norm1 = nn.Identity()
    with pytest.raises(FgpError, match=r"^conv1: the method reads the batch normalisation"):
        METHODS["slimming"].score(model.eval(), batches(), 0)
    with pytest.raises(FgpError, match="no image"):
        METHODS["slimming"].score(small(), [], 0)
    with pytest.raises(FgpError, match="training mode"):
        METHODS["slimming"].score(small().train(), batches(), 0)
    with pytest.raises(FgpError, match=r"^Conv2d: slimming needs BatchNorm2d"):
        METHODS["slimming"].training().penalty(nn.Conv2d(1, 1, 1))


def test_listing_the_methods_loads_no_torch():
    code = "import sys, baselines; print(*baselines.discover()); sys.exit('torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert set(listed.stdout.split()) >= {"fgp", "l1", "fpgm", "slimming", "random", "scratch-e", "scratch-b"}


def test_scratch_methods_say_what_they_train():
    facts = {name: METHODS[name].METHOD for name in ("scratch-e", "scratch-b")}
    assert {name: (fact.kind, fact.plan_of, fact.equal) for name, fact in facts.items()} == {
        "scratch-e": ("scratch", "fgp", "epochs"),
        "scratch-b": ("scratch", "fgp", "flops"),
    }


def test_all_methods_are_found_by_name():
    found = baselines.discover()
    assert list(found) == sorted(found) == list(METHODS)
    assert all(found[name] is baselines.get(name) for name in found)


def test_unknown_method_names_the_closest():
    with pytest.raises(FgpError, match=r"^method 'sliming': .*; use slimming") as refused:
        baselines.get("sliming")
    assert "hrank" not in str(refused.value)
    with pytest.raises(FgpError, match=r"^method '\?': .*; use " + " or ".join(METHODS)):
        baselines.get("?")


@pytest.fixture
def add(tmp_path, monkeypatch):
    """A function that lets `baselines/my_own.py` be a file with these contents."""

    def added(**contents):
        module = ModuleType("baselines.my_own")
        module.__file__ = str(tmp_path / "my_own.py")
        vars(module).update(contents)
        (tmp_path / "my_own.py").touch()
        (tmp_path / "fgp.py").touch()
        monkeypatch.setattr(baselines, "__file__", str(tmp_path / "__init__.py"))
        monkeypatch.setitem(sys.modules, "baselines.my_own", module)
        return module

    return added


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "METHOD is missing"),
        ({"METHOD": Method("X")}, "the docstring header is missing"),
        ({"METHOD": Method("X"), "__doc__": "X"}, "function `score` is missing"),
        ({"METHOD": Method("X", kind="sparse-training"), "__doc__": "X", "score": print}, "function `training` is missing"),
        ({"METHOD": Method("X", kind="gradual"), "__doc__": "X"}, "function `pruning` is missing"),
        (
            {"METHOD": Method("X", kind="architecture", networks={"vgg16": "vgg17"}), "__doc__": "X"},
            "networks is {'vgg16': 'vgg17'}",
        ),
        ({"METHOD": Method("X", kind="scratch", equal="flops", plan_of="y"), "__doc__": "X"}, "plan_of is 'y'"),
        ({"METHOD": Method("X", kind="scratch", plan_of="fgp"), "__doc__": "X"}, "equal is None"),
    ],
)
def test_a_file_that_breaks_the_contract_is_named(contents, message, add):
    add(**contents)
    with pytest.raises(FgpError, match=rf"^baselines/my_own\.py: {message}"):
        baselines.get("my-own")


@pytest.mark.parametrize(
    ("kind", "rule", "function"),
    [("criterion", "score", "score"), ("sparse-training", "sparse_training", "training"), ("gradual", "gradual", "pruning")],
)
def test_a_rule_of_its_own_stands_in_for_the_function_that_the_suites_rule_calls(kind, rule, function, add):
    module = add(METHOD=Method("X", kind=kind, own_rule=rule), __doc__="X")
    assert baselines.get("my-own") is module
    for other in {"score", "sparse_training", "gradual", "prune", "finetune"} - {rule}:
        module.METHOD = Method("X", kind=kind, own_rule=other)
        with pytest.raises(FgpError, match=rf"function `{function}` is missing; a method of kind {kind} needs it"):
            baselines.get("my-own")


@pytest.mark.parametrize(("entry", "value"), [("kind", "criteria"), ("start", "sparse"), ("own_rule", "scores")])
def test_a_fact_that_is_none_of_the_known_is_refused(entry, value):
    with pytest.raises(ValueError, match=rf"^{entry} '{value}' is not one of "):
        Method("X", **{entry: value})


def test_every_rule_of_the_suite_that_serves_methods_can_be_replaced():
    assert {rule for kind in KINDS for rule in workflow_kinds.KINDS[kind].rules} == set(RULES)
