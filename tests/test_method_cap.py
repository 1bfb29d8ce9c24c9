import copy
import math

import pytest
import torch
from segmentation_training import assert_resumes, dataset, hooks_on, run_of, tiny, train
from torch import nn

from baselines import cap, slimming
from fgp.errors import FgpError
from fgp.models import build
from fgp.train import Recipe, fit


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    assert_resumes(cap.training, tmp_path)


def test_the_network_is_left_without_hooks():
    assert hooks_on(train(cap.training())) == 0


def literal_guide(features):
    """Mean over images and rows of the softmax of the cosines between the channels, by loops."""
    count, channels = features.shape[:2]
    guide = [0.0] * channels
    for image in features.double():
        rows = [row.flatten() for row in image]
        for a in rows:
            cosines = [float((a * b).sum() / (a.norm() * b.norm())) for b in rows]
            mass = sum(map(math.exp, cosines))
            for c, cosine in enumerate(cosines):
                guide[c] += math.exp(cosine) / mass / channels / count
    return guide


@pytest.mark.parametrize("options", [{}, {"strength": "0.5", "momentum": "0.25"}])
def test_the_guided_penalty_is_the_literal_one(options):
    model = tiny()
    hook, run = cap.training(**options), run_of(model)
    hook.begin(run)
    factor, keep = float(options.get("strength", 1e-4)), float(options.get("momentum", 0.9))
    averages = {}
    for step in range(3):
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        features = {}
        spies = [
            m.register_forward_pre_hook(lambda m, x, features=features: features.update({m: x[0].detach().clone()}))
            for m in model.modules()
            if isinstance(m, nn.BatchNorm2d)
        ]
        model(images)
        for spy in spies:
            spy.remove()
        expected = 0.0
        model.zero_grad()
        penalty = hook.penalty(model)
        penalty.backward()
        for norm, maps in features.items():
            fresh = literal_guide(maps)
            old = averages.get(norm, fresh)
            averages[norm] = [keep * a + (1 - keep) * b for a, b in zip(old, fresh, strict=True)]
            low, high = min(averages[norm]), max(averages[norm])
            scaled = [(value - low) / (high - low) for value in averages[norm]]
            slopes = [factor * (1 - g) * math.copysign(1, w) for g, w in zip(scaled, norm.weight.tolist(), strict=True)]
            assert norm.weight.grad.tolist() == pytest.approx(slopes, rel=2e-3, abs=factor * 2e-3)
            expected += sum(factor * (1 - g) * abs(w) for g, w in zip(scaled, norm.weight.tolist(), strict=True))
        assert penalty.item() == pytest.approx(expected, rel=2e-3)
        assert model.stem[0].weight.grad is None
    hook.end()
    assert hooks_on(model) == 0


def test_a_guide_of_zero_is_slimming():
    """All channels of every layer alike: cosines of 1, a constant guide."""
    data, model = dataset(), tiny()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data[:] = module.weight.data[:1]
            module.bias.data[:] = module.bias.data[0]
    recipe = Recipe(epochs=1, batch_size=6, lr=0.1)
    models = [copy.deepcopy(model) for _ in range(3)]
    hooks = (cap.training(strength=0.01), slimming.training(strength=0.01), None)
    for one, hook in zip(models, hooks, strict=True):
        fit(one, data.train, data, recipe, 0, "cpu", hook=hook)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(models[0].stem[1].weight, models[2].stem[1].weight)


def test_channels_alike_are_spared():
    """Three channels with one map and two with maps of their own: the shared context has the larger guide."""
    model = tiny()
    hook = cap.training()
    hook.begin(run_of(model))
    maps = torch.randn(1, 3, 6, 6)[:, [0, 0, 0, 1, 2]]
    model.layer1[1](maps)
    guide = cap.scaled(hook.guides["layer1.1"])
    assert min(guide[:3]) > max(guide[3:])
    assert guide.min() == 0
    assert guide.max() == 1
    hook.end()


@pytest.mark.parametrize("name", ["segnet", "deeplabv3"])
def test_a_layer_that_was_not_read_yet_is_slimming(name):
    model = build(name, 4, 1 / 32)
    hook = cap.training()
    hook.begin(run_of(model))
    assert hook.penalty(model).item() == pytest.approx(slimming.training().penalty(model).item(), rel=1e-5)
    hook.end()


def test_guides_are_scaled_where_they_differ_by_more_than_rounding():
    assert cap.scaled(torch.tensor([0.2, 0.200005, 0.20001])).tolist() == pytest.approx([0, 0.5, 1], abs=0.01)
    assert cap.scaled(torch.tensor([0.2, 0.2000001, 0.2000015])).tolist() == [0, 0, 0]


def test_cap_scores_as_slimming():
    model, batches = tiny(), [(torch.randn(1, 3, 8, 8), None)]
    scores = cap.score(model, batches, 0)
    assert torch.equal(scores["head.0"], model.head[1].weight.detach().abs())
    assert scores.keys() == slimming.score(model, batches, 0).keys()


def test_refusals_of_cap():
    for options in ({"strength": -1}, {"momentum": "1.5"}, {"strength": "much"}):
        with pytest.raises(FgpError, match=next(iter(options))):
            cap.training(**options)
    with pytest.raises(FgpError, match=r"^Conv2d: CAP needs BatchNorm2d"):
        cap.training().begin(run_of(nn.Conv2d(3, 4, 1)))
