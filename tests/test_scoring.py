import pytest
import torch
from reference_fgp import assert_equal, literal_scores, randomise
from scoring_networks import POSTRELU, classification, plain, residual, segmentation

import fgp
from fgp.models import build
from fgp.scoring import formulas

VARIANTS = [
    {},
    {"feature": "postrelu"},
    {"form": "gapfirst"},
    {"form": "elementwise"},
    {"form": "abs"},
    {"normalise": "minmax_u8"},
    {"normalise": "jointmax"},
    {"target": "softmax"},
    {"classes": "predicted"},
    {"classes": "correct"},
    {"classes": "all"},
    {"evidence": "feature"},
    {"evidence": "gradient"},
    {"form": "abs", "normalise": "jointmax", "target": "softmax"},
    {"form": "elementwise", "normalise": "minmax_u8", "classes": "all"},
    {"feature": "postrelu", "form": "elementwise", "classes": "predicted"},
    {"evidence": "gradient", "form": "elementwise", "normalise": "jointmax"},
    {"evidence": "gradient", "form": "abs"},
    {"evidence": "feature", "form": "gapfirst", "classes": "correct"},
    {"evidence": "feature", "normalise": "minmax_u8", "classes": "all"},
]
NETWORKS = {
    "plain": (plain, classification),
    "residual": (residual, classification),
    "residual-segmentation": (lambda: residual(segmentation=True), segmentation),
}


def name_of(variant):
    return "-".join(f"{key}={value}" for key, value in variant.items()) or "canonical"


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
@pytest.mark.parametrize("network", NETWORKS)
def test_equals_the_literal_formula(network, variant):
    make, data = NETWORKS[network]
    model, batches = make(), [data(), data(count=3, seed=7)]
    options = dict(variant)
    feature_of = None
    if options.pop("feature", "conv") == "postrelu":
        feature_of = {"a": "relu_a", "b": "relu_b"} if network == "plain" else POSTRELU
    slow = literal_scores(model, batches, feature_of=feature_of, **options)
    assert any(scores.max() > 0 for scores in slow.values())
    assert_equal(fgp.score(model, batches, **variant), slow)


@pytest.mark.parametrize(("network", "count", "size"), [("vgg16", 2, 32), ("resnet50", 1, 8), ("segnet", 2, 32)])
def test_networks_of_the_suite_equal_the_literal_formula(network, count, size):
    torch.manual_seed(0)
    model = randomise(build(network, 4, 1 / 32).double())
    batch = (segmentation if model.fgp_spec.task == "segmentation" else classification)(count=3, size=size)
    batch = tuple(tensor[-count:] for tensor in batch)
    slow = literal_scores(model, [batch])
    assert sum(bool(scores.max() > 0) for scores in slow.values()) > len(slow) / 2
    assert_equal(fgp.score(model, [batch]), slow)


@pytest.mark.parametrize("scratch", [1, 100, 1 << 20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_by_pieces_are_those_of_the_whole_map(monkeypatch, scratch, layout):
    monkeypatch.setattr(formulas, "_SCRATCH", scratch)
    feature = torch.randn(3, 5, 4, 6, dtype=torch.float64).to(memory_format=layout)
    sums = formulas.Sums.of(feature)
    torch.testing.assert_close(sums.positive, feature.relu().sum((2, 3)))
    torch.testing.assert_close(sums.negative, (-feature).relu().sum((2, 3)))


def test_relu_as_a_function_is_followed_like_a_module():
    batch = classification()
    assert_equal(
        fgp.score(residual(functional=True), [batch], feature="postrelu"),
        fgp.score(residual(), [batch], feature="postrelu"),
        1e-14,
    )


def test_every_variant_differs_from_the_canonical_scores():
    model, batch = residual(segmentation=True), segmentation()
    canonical = fgp.score(model, [batch])
    for variant in VARIANTS[1:]:
        scores = fgp.score(model, [batch], **variant)
        assert any(not torch.allclose(scores[name], canonical[name], rtol=1e-3) for name in canonical), variant


def test_postrelu_survives_a_shift_between_bias_and_running_mean():
    model, batch = residual(), classification()
    raw, post = (fgp.score(model, [batch], feature=feature)["conv1"] for feature in ("conv", "postrelu"))
    with torch.no_grad():
        model.conv1.bias += 2
        model.norm1.running_mean += 2
    torch.testing.assert_close(fgp.score(model, [batch], feature="postrelu")["conv1"], post)
    assert not torch.allclose(fgp.score(model, [batch])["conv1"], raw, rtol=0.1)


@pytest.mark.parametrize("network", NETWORKS)
def test_batch_size_and_order_do_not_matter(network):
    make, data = NETWORKS[network]
    model, (images, labels) = make(), data(count=6)
    whole = fgp.score(model, [(images, labels)])
    single = [(images[n : n + 1], labels[n : n + 1]) for n in range(6)]
    assert_equal(fgp.score(model, single), whole)
    assert_equal(fgp.score(model, single[::-1]), whole)
    assert_equal(fgp.score(model, iter(single)), whole)


def test_float32_is_close_to_float64_and_keeps_its_type():
    model, (images, labels) = residual(), classification()
    exact = fgp.score(model, [(images, labels)])
    assert all(scores.dtype == torch.float64 for scores in exact.values())
    single = fgp.score(model.float(), [(images, labels)])
    assert all(scores.dtype == torch.float32 for scores in single.values())
    assert_equal(single, exact, rtol=1e-4)


def test_permuting_channels_permutes_scores():
    model, batch = residual(), classification()
    before = fgp.score(model, [batch])["conv1"]
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.conv1.bias, *(getattr(model.norm1, k) for k in ("weight", "bias"))):
            tensor.copy_(tensor[order])
        for buffer in (model.norm1.running_mean, model.norm1.running_var):
            buffer.copy_(buffer[order])
        model.conv2.weight.copy_(model.conv2.weight[:, order])
    torch.testing.assert_close(fgp.score(model, [batch])["conv1"], before[order])


@pytest.mark.parametrize("normalise", [None, "minmax_u8", "jointmax"])
def test_a_layer_of_zeros_scores_zero(normalise):
    model, batch = residual(), classification()
    with torch.no_grad():
        model.conv1.weight.zero_()
        model.conv1.bias.zero_()
    scores = fgp.score(model, [batch], normalise=normalise)
    assert torch.equal(scores["conv1"], torch.zeros(5, dtype=torch.float64))
    assert scores["stem"].max() > 0


def test_one_forward_and_as_many_backwards_as_the_richest_image_has_classes(monkeypatch):
    model, (images, labels) = residual(segmentation=True), segmentation(count=3)
    labels = torch.full_like(labels, 255)
    labels[0, :4], labels[0, 4:], labels[1, 3:], labels[2] = 0, 1, 2, 3
    counts = {"forward": 0, "backward": 0}
    backward = torch.autograd.grad

    def count_backward(*args, **kwargs):
        counts["backward"] += 1
        return backward(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", count_backward)
    model.register_forward_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
    scores = fgp.score(model, [(images, labels)])
    assert counts == {"forward": 1, "backward": 2}
    assert_equal(scores, literal_scores(model, [(images, labels)]))


def test_the_network_is_left_as_it_was():
    model, batch = residual(), classification()
    model.norm1.weight.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fgp.score(model, [batch], feature="postrelu")
    assert_untouched(model, state)


def assert_untouched(model, state):
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "norm1.weight")
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training


def test_the_network_is_left_as_it_was_after_an_error():
    model, (images, labels) = residual(), classification()
    model.norm1.weight.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(fgp.FgpError):
        fgp.score(model, [(images, labels + 4)])
    model.stem.register_forward_hook(failing := lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fgp.score(model, [(images, labels)], feature="postrelu")
    hooks = model.stem._forward_hooks
    assert list(hooks.values()) == [failing]
    hooks.clear()
    assert_untouched(model, state)


def test_images_are_not_written_to_and_weights_may_be_frozen():
    model, (images, labels) = plain(), classification()
    expected = fgp.score(model, [(images, labels)])
    copy = images.clone()
    with torch.no_grad():
        assert_equal(fgp.score(model.requires_grad_(False), [(images, labels)]), expected)
    with torch.inference_mode():
        assert_equal(fgp.score(model, [(images, labels)]), expected)
    assert torch.equal(images, copy)
