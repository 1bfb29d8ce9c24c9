"""Methods that differentiate a loss or the entropy of the outputs: Taylor, Taylor-BN, GFBS, GT."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import randomise
from scoring_networks import classification, plain, residual, segmentation
from torch import nn

import baselines
import fgp
from fgp import FgpError
from fgp.models import build
from fgp.scoring.losses import gradients, sample_entropies, sample_losses
from fgp.scoring.norms import norm_gradients

NAMES = ("taylor", "taylor-bn", "gfbs", "gt")
TRAINING = ("gfbs", "gt")
NORMS = {"stem": "norm0", "conv1": "norm1", "conv2": "norm2"}  # of scoring_networks.residual


def run(name, model, batches, **options):
    return baselines.get(name).score(model, batches, 0, **options)


def two_batches(data):
    images, labels = data
    return [(images[:2], labels[:2]), (images[2:], labels[2:])]


def cross_entropy(logits, labels):
    """Mean over images of the mean over pixels that are not void, image by image."""
    total = 0
    for z, label in zip(logits, labels, strict=True):
        z, label = z.flatten(1).T if z.ndim > 1 else z[None], label.flatten()
        total = total + (F.cross_entropy(z[label != 255], label[label != 255]) if (label != 255).any() else 0)
    return total / len(logits)


def entropy(logits, labels):
    distribution = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    return distribution.entropy().mean() / logits.shape[1]


def slope(model, objective, batch, owners, channel, training=False, step=1e-6):
    """d objective / d t at t = 1, by a central difference, where t multiplies a channel of the tensors `owners`."""
    values = []
    for t in (1 + step, 1 - step):
        moved = copy.deepcopy(model).train(training)
        with torch.no_grad():
            for owner in owners:
                moved.get_parameter(owner)[channel] *= t
            values.append(float(objective(moved(batch[0]), batch[1])))
    return (values[0] - values[1]) / (2 * step)


def assert_close(scores, expected):
    for name, values in expected.items():
        values = torch.as_tensor(values, dtype=torch.float64)
        torch.testing.assert_close(scores[name].double(), values, rtol=1e-4, atol=1e-6 * float(values.abs().max()), msg=name)


class OneConv(nn.Module):
    """The first two planes of the image, normalised (running mean 0 and variance 1), averaged, times `head`: two logits."""

    def __init__(self, gamma, beta, head=(1.0, 1.0)):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=1e-20)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2, 3)[:, :, None, None])
            self.norm.weight.copy_(torch.tensor(gamma))
            self.norm.bias.copy_(torch.tensor(beta))
            self.head.weight.copy_(torch.diag(torch.tensor(head)))
        self.eval()

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def planes(*values):
    """One 2 x 2 image for each pair of values, constant in each plane."""
    return torch.tensor([[a, b, 0.0] for a, b in values])[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


@pytest.mark.parametrize("name", ["taylor", "taylor-bn"])
def test_taylor_by_hand(name):
    # Normalised maps are 2x + 1 and 3 - x: (2, 2) and (-4, -4), which are the logits, so p = 1/2. With label 0 an image's loss
    # has the gradient (-1/2, 1/2) with respect to the logits; times the logits, (-1, 1) and (2, -2) with respect to the gates.
    model, images, labels = OneConv([2.0, -1.0], [1.0, 3.0]), planes((0.5, 1.0), (-2.5, 7.0)), torch.tensor([0, 0])
    for batches, expected in (
        ([(images, labels)], [0.25, 0.25]),
        ([(images[:1], labels[:1]), (images[1:], labels[1:])], [5.0, 5.0]),
    ):
        assert run(name, model, batches)["conv"].tolist() == pytest.approx(expected)


def test_gfbs_by_hand():
    # The batch is normalised to +1 and -1 in both channels; the logits are equal in each image, so p = 1/2. Labels 0 and 1 give
    # d loss / d logit = (-1/4, 1/4) and (1/4, -1/4), hence dgamma = (-2, 3/2). Unit vectors: (.6, .8), (.8, .6), (-.6, -.8).
    model = OneConv([3.0, 4.0], [-3.0, -4.0], head=(4.0, 3.0))
    batch = (planes((5.0, 2.0), (3.0, -2.0)), torch.tensor([0, 1]))
    for weight, expected in ((0.05, [0.45, 0.44]), ("1", [-0.12, -0.32]), (0, [0.48, 0.48])):
        assert run("gfbs", model, [batch], beta_weight=weight)["conv"].tolist() == pytest.approx(expected, abs=1e-6)
    assert run("gfbs", model, [batch])["conv"].tolist() == pytest.approx([0.45, 0.44])


def test_gfbs_does_not_depend_on_the_size_of_the_gradient():
    model = OneConv([3.0, 4.0], [-3.0, -4.0], head=(4e-20, 3e-20))
    batch = (planes((5.0, 2.0), (3.0, -2.0)), torch.tensor([0, 1]))
    assert run("gfbs", model, [batch])["conv"].tolist() == pytest.approx([0.45, 0.44])


def test_gfbs_of_a_normalised_layer_whose_channels_are_the_logits():
    # Normalised to +1 and -1, the logits are equal, so p = 1/2 and dgamma = (-1/2, 1/2). Each unit vector holds 1 / sqrt 2.
    class NoHead(OneConv):
        def forward(self, x):
            return self.norm(self.conv(x)).mean((2, 3))

    model, batch = NoHead([3.0, 3.0], [2.0, 2.0]), (planes((5.0, 2.0), (3.0, -2.0)), torch.tensor([0, 1]))
    assert run("gfbs", model, [batch])["conv"].tolist() == pytest.approx([0.5 + 0.05 / math.sqrt(2)] * 2)


def test_gt_by_hand():
    # Logits are +-(3/2, 1/2) log 3, so p = (3/4, 1/4) and (1/4, 3/4). The entropy of two classes has the derivative -p q (a - b)
    # with respect to logit a. Gain: sum over two images of 3/16 log 3 |logit|, over 2 images and 2 classes.
    model, square = OneConv([1.5 * math.log(3), 0.5 * math.log(3)], [0.0, 0.0]), math.log(3) ** 2
    scores = run("gt", model, [(planes((9.0, 1.0), (7.0, -1.0)), None)])
    assert scores["conv"].tolist() == pytest.approx([2 * 3 / 16 * 1.5 * square / 4, 2 * 3 / 16 * 0.5 * square / 4], rel=1e-5)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", ["taylor", "taylor-bn"])
def test_taylor_by_differences(name, dense):
    model = residual(segmentation=dense)
    batches = two_batches(segmentation() if dense else classification())
    assert_close(
        run(name, model, batches),
        {
            layer: [
                sum(slope(model, cross_entropy, batch, (f"{norm}.weight", f"{norm}.bias"), c) ** 2 for batch in batches)
                for c in range(model.get_submodule(norm).num_features)
            ]
            for layer, norm in NORMS.items()
        },
    )


@pytest.mark.parametrize("depthwise", [False, True])
def test_taylor_gates_a_convolution_without_normalisation(depthwise):
    model, batches = plain(), two_batches(classification())
    if depthwise:
        model.b, model.linear = nn.Conv2d(5, 5, 3, groups=5).double(), nn.Linear(5, 4).double()
        model.eval()
    assert_close(
        run("taylor", model, batches),
        {
            name: [
                sum(slope(model, cross_entropy, batch, (f"{name}.weight", f"{name}.bias"), c) ** 2 for batch in batches)
                for c in range(len(getattr(model, name).weight))
            ]
            for name in "ab"
        },
    )


@pytest.mark.parametrize("dense", [False, True])
def test_gt_by_differences(dense):
    model = residual(segmentation=dense)
    batches = two_batches(segmentation() if dense else classification())
    assert_close(
        run("gt", model, batches),
        {
            layer: [
                abs(slope(model, entropy, batches[0], (f"{norm}.weight", f"{norm}.bias"), c, training=True))
                for c in range(model.get_submodule(norm).num_features)
            ]
            for layer, norm in NORMS.items()
        },
    )


def test_gfbs_by_differences_and_shares_over_the_residual_stream():
    model, batches = residual(), two_batches(classification())
    vectors = {}
    for layer, name in NORMS.items():
        norm = model.get_submodule(name)
        gamma, beta = norm.weight.detach(), norm.bias.detach()
        dgamma = torch.tensor([slope(model, cross_entropy, batches[0], (f"{name}.weight",), c, True) for c in range(len(gamma))])
        vectors[layer] = [v / math.sqrt(sum(x * x for x in v.tolist())) for v in (gamma.abs(), dgamma.double() / gamma, beta)]
    stem, inner, last = vectors["stem"], vectors["conv1"], vectors["conv2"]
    mean = [(a + b) / 2 for a, b in zip(stem, last, strict=True)]
    alone = inner[0] * inner[1].abs() + 0.05 * inner[2]
    mean[1] = (stem[1].abs() + last[1].abs()) / 2
    shared = mean[0] * mean[1] + 0.05 * mean[2]
    scores = run("gfbs", model, batches)
    assert_close(scores, {"stem": shared / 2, "conv1": alone, "conv2": shared / 2})
    assert_close(fgp.prunable(scores, model, batches[0][0], tied=True), {"stem": shared, "conv1": alone})


@pytest.mark.parametrize(("network", "size"), [("vgg16", 32), ("segnet", 32), ("deeplabv3", 64)])
def test_gates_and_normalisation_parameters_agree(network, size):
    torch.manual_seed(0)
    model = randomise(build(network, 4, 1 / 16)).double()
    dense = network != "vgg16"
    images, labels = segmentation(size=size) if dense else classification(size=size)
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    gates, parameters = run("taylor", model, batches), run("taylor-bn", model, batches)
    assert list(gates) == list(parameters)
    outputs = ["head.6", "auxiliary.4"] if network == "deeplabv3" else []
    for name in outputs:
        assert torch.equal(parameters[name], torch.ones(4))
    assert_close(parameters, {name: values for name, values in gates.items() if name not in outputs})
    if network == "deeplabv3":
        assert not gates["auxiliary.0"].any()
        assert gates["head.6"].any()


@pytest.mark.parametrize(("name", "network"), [("gt", "deeplabv3"), ("gt", "vgg16"), ("gfbs", "vgg16"), ("gfbs", "resnet50")])
def test_batch_statistics_leave_the_network_alone(name, network):
    torch.manual_seed(0)
    model = randomise(build(network, 4, 1 / 32))
    images, labels = classification(size=32)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    scores = run(name, model, [(images.float(), labels)])
    silent = {"auxiliary.0"} if network == "deeplabv3" else set()
    assert {layer for layer, values in scores.items() if not values.any()} == silent
    if network == "deeplabv3":
        assert torch.equal(scores["head.6"], torch.ones(4))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in model.modules())


def test_batch_statistics_are_used_and_dropout_is_not():
    class Dropping(OneConv):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, self.training)

    model, batch = Dropping([3.0, 4.0], [-3.0, -4.0], head=(4.0, 3.0)), (planes((5.0, 2.0), (3.0, -2.0)), torch.tensor([0, 1]))
    assert run("gfbs", model, [batch])["conv"].tolist() == pytest.approx([0.45, 0.44])
    found = next(norm_gradients(model, [batch], lambda z, y: sample_losses(z, y).mean()))
    assert found["conv"].dgamma.tolist() != pytest.approx([-2.0, 1.5])


def test_one_batch_and_no_labels_are_read():
    model, (images, labels) = residual(), classification()

    def batches():
        yield images, labels
        raise AssertionError("read on")

    class Once:
        def __iter__(self):
            return batches()

    for name in TRAINING:
        run(name, model, Once())
    run("gt", model, [(images, None)])


def test_a_norm_without_shift_counts_as_shift_zero():
    model, batches = residual(), two_batches(classification())
    nn.init.zeros_(model.norm1.bias)
    expected = {name: run(name, model, batches) for name in ("taylor", "taylor-bn", "gt")}
    model.norm1.bias = None
    for name, scores in expected.items():
        assert_close(run(name, model, batches), scores)


def test_zero_vectors_give_no_nan():
    model, batches = residual(), [classification()]
    nn.init.zeros_(model.norm0.bias), nn.init.zeros_(model.norm1.weight), nn.init.zeros_(model.head.weight)
    for name in NAMES:
        scores = run(name, model, batches)
        assert all(values.isfinite().all() for values in scores.values())
        assert name == "gfbs" or not any(values.any() for values in scores.values())


def test_sample_losses_by_pixels():
    _, labels = segmentation()
    logits = torch.randn(3, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    values = logits.tolist()
    losses = sample_losses(logits, labels)
    for n, loss in enumerate(losses.tolist()):
        terms = [
            math.log(sum(math.exp(plane[u][v]) for plane in values[n])) - values[n][labels[n, u, v]][u][v]
            for u in range(8)
            for v in range(8)
            if labels[n, u, v] != 255
        ]
        assert loss == pytest.approx(sum(terms) / len(terms) if terms else 0)
    assert losses[1] == 0
    assert not torch.autograd.grad(losses.sum(), logits)[0][1].any()
    only_void = sample_losses(logits, torch.full_like(labels, 255)).mean()
    assert not torch.autograd.grad(only_void, logits)[0].any()
    flat, classes = logits[:, :, 0, 0], torch.tensor([0, 3, 1])
    torch.testing.assert_close(sample_losses(flat, classes), F.cross_entropy(flat, classes, reduction="none"))
    with pytest.raises(FgpError, match="shape"):
        sample_losses(logits, classes)


def test_sample_entropies():
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -1000.0, -1000.0]], requires_grad=True)
    expected = [math.log(4), 0, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert sample_entropies(z).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.autograd.grad(sample_entropies(z).sum(), z)[0].isfinite().all()
    halves = torch.stack([z, z[[1, 1, 1]]], dim=2)[..., None]
    assert sample_entropies(halves).tolist() == pytest.approx([e / 2 for e in expected], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name):
    images, labels = classification()
    with pytest.raises(FgpError, match="no image"):
        run(name, residual(), [])
    with pytest.raises(FgpError, match="training mode"):
        run(name, residual().train(), [(images, labels)])
    if name != "gt":
        with pytest.raises(FgpError, match="hold 4"):
            run(name, residual(), [(images, labels * 0 + 4)])
    if name != "taylor":
        with pytest.raises(FgpError, match=r"^a: the method reads the batch normalisation .* none with a scale"):
            run(name, plain(), [(images, labels)])
        model = residual()
        model.norm1 = nn.BatchNorm2d(5, affine=False).double().eval()
        with pytest.raises(FgpError, match=r"^conv1: the method"):
            run(name, model, [(images, labels)])
    model = residual()
    model.head.weight.data[0, 0] = math.nan
    with pytest.raises(FgpError, match="NaN or infinite"):
        run(name, model, [(images, labels)])
    assert not any(module._forward_hooks for module in model.modules())


def test_refuses_batch_statistics_of_one_value():
    model = build("deeplabv3", 4, 1 / 32).eval()
    with pytest.raises(FgpError, match="at least two"):
        run("gt", model, [(torch.randn(1, 3, 32, 32), None)])


@pytest.mark.parametrize("weight", [-1, "much", math.nan, math.inf, None])
def test_gfbs_option_is_checked(weight):
    with pytest.raises(FgpError, match="beta_weight"):
        run("gfbs", residual(), [classification()], beta_weight=weight)


def test_gradients_refuses_what_depends_on_nothing():
    x = torch.ones(2, requires_grad=True)
    y = torch.ones(3, requires_grad=True)
    first, second = gradients((2 * x).sum(), [x, y])
    assert first.tolist() == [2, 2]
    assert second.tolist() == [0, 0, 0]
    with pytest.raises(FgpError, match="detaches"):
        gradients(x.detach().sum(), [x])
