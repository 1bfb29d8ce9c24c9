"""What `fgp.score` promises beside its values: what it reads, names, refuses, and how much memory it takes."""

import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from reference_fgp import assert_equal, channel_sums, feature_and_gradient, literal_scores
from scoring_networks import classification, plain, residual, segmentation
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fgp
from fgp import FgpError
from fgp.scoring import formulas
from fgp.scoring.checks import check_model, differentiable, example_of, place
from fgp.scoring.maps import heatmaps
from fgp.variants import Variant


class Steps(nn.Module):
    """A convolution, what a test does with its output, and the mean of each channel as a logit."""

    def __init__(self, *steps):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1).double()
        self.steps = steps
        self.bound = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))
        self.eval()

    def forward(self, x):
        x = self.conv(x)
        for step in self.steps:
            x = step(x)
        return x.mean((2, 3))


# Features and their sums


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu by keyword": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "torch.relu by keyword": lambda x: torch.relu(input=x),
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "relu6 module": nn.ReLU6(),
    "F.hardtanh by keyword, as relu6": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
}


@pytest.mark.parametrize("kind", RELUS)
def test_every_way_to_call_a_relu_is_read_behind(kind):
    bound = nn.ReLU6() if "relu6" in kind else nn.ReLU()
    images, labels = classification()
    literal = literal_scores(Steps(bound), [(10 * images, labels)], feature_of={"conv": "bound.0"})
    assert_equal(fgp.score(Steps(RELUS[kind]), [(10 * images, labels)], feature="postrelu"), literal)


@pytest.mark.parametrize(
    "steps",
    [
        [nn.Identity()],
        [F.softplus],
        [nn.LeakyReLU()],
        [nn.Hardtanh()],
        [F.hardtanh],
        [lambda x: x + 0, F.relu],
        [lambda x: x.add_(0), F.relu],
    ],
)
def test_what_is_no_relu_directly_behind_is_not_read_behind(steps):
    assert_equal(
        fgp.score(Steps(*steps), [classification()], feature="postrelu"), fgp.score(Steps(*steps), [classification()]), 1e-14
    )


class Elsewhere(Tensor):
    """Says that it lies on a GPU."""

    device = property(lambda _: torch.device("cuda"))


class Ledger(TorchFunctionMode):
    """Counts operations and the numbers in the memory behind their results, that of `known` excepted."""

    def __init__(self, known):
        super().__init__()
        self.calls, self.made, self._known = 0, {}, known.untyped_storage().data_ptr()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = storage  # held, so that no address is used twice
        return result

    def numbers(self):
        return sum(storage.nbytes() // 8 for place, storage in self.made.items() if place != self._known)


@pytest.mark.parametrize(("scratch", "piece"), [(1, 24), (23, 24), (48, 48), (71, 48), (1 << 20, 360)])
def test_on_the_cpu_a_map_is_summed_in_one_buffer_of_a_piece(monkeypatch, scratch, piece):
    monkeypatch.setattr(formulas, "_SCRATCH", scratch)
    feature = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    with Ledger(feature) as ledger:
        formulas.Sums.of(feature)
    assert ledger.numbers() <= piece + 3 * 15


def test_elsewhere_a_map_is_summed_in_few_operations(monkeypatch):
    monkeypatch.setattr(formulas, "_SCRATCH", 1)
    feature = torch.randn(3, 5, 4, 6, dtype=torch.float64).as_subclass(Elsewhere)
    with Ledger(feature) as ledger:
        sums = formulas.Sums.of(feature)
    assert ledger.calls < 10
    for half, sign in ((sums.positive, 1), (sums.negative, -1)):
        expected = [[sum(max(sign * x, 0) for x in channel.ravel()) for channel in image] for image in feature.numpy()]
        torch.testing.assert_close(half.as_subclass(Tensor), torch.tensor(expected, dtype=torch.float64))


FEATURE = torch.tensor([[[[1.0, -2], [4, 0]], [[-3, 2], [0, 2]]]])
FLAT = torch.tensor([2.0, -1])[:, None, None].expand(1, 2, 2, 2)
ROUGH = torch.tensor([[[[1.0, -1], [0.5, 3]], [[-1, 1], [1, -9]]]])


@pytest.mark.parametrize(
    ("variant", "gradient", "expected"),
    [
        ({}, FLAT, [2 * 5, 3]),
        ({}, ROUGH, [0.875 * 5, 2 * 3]),
        ({"form": "abs"}, FLAT, [2 * 7, 7]),
        ({"form": "gapfirst"}, FLAT, [2 * 3, 0]),
        ({"form": "elementwise"}, ROUGH, [1 + 2 + 2, 3 + 2]),
        ({"normalise": "minmax_u8"}, FLAT, [1 + 63 / 255, 1]),
        ({"normalise": "jointmax"}, FLAT, [5 / 4, 3 / 8]),
        ({"normalise": "jointmax", "form": "elementwise"}, ROUGH, [5 / 3, 5 / 3]),
        ({"evidence": "gradient"}, FLAT, [2 * 4, 0]),
        ({"evidence": "gradient", "form": "abs"}, FLAT, [2 * 4, 4]),
        ({"evidence": "gradient", "form": "elementwise"}, ROUGH, [1 + 0.5 + 3, 2]),
        ({"evidence": "gradient", "normalise": "jointmax"}, FLAT, [4, 0]),
        ({"evidence": "feature"}, None, [5, 4]),
        ({"evidence": "feature", "form": "abs"}, None, [7, 7]),
        ({"evidence": "feature", "form": "gapfirst"}, None, [3, 1]),
        ({"evidence": "feature", "normalise": "minmax_u8"}, None, [1 + 63 / 255, 2]),
        ({"evidence": "feature", "normalise": "jointmax", "form": "abs"}, None, [7 / 4, 7 / 4]),
    ],
)
def test_importance_by_hand(variant, gradient, expected):
    variant = Variant(**variant)
    kept = formulas.keep(FEATURE, variant)
    if isinstance(kept, formulas.Sums) and gradient is not None:
        gradient = gradient.mean((2, 3))
    assert formulas.importance(kept, gradient, variant).tolist() == [pytest.approx(expected)]


def test_of_the_gradient_alone_no_map_is_kept():
    kept = formulas.keep(FEATURE, Variant(evidence="gradient", form="elementwise"))
    assert kept.shape == FEATURE.shape
    assert kept.untyped_storage().nbytes() == FEATURE.element_size()


# What is named


class Idle(Steps):
    """Two more convolutions: one is not called, the logits do not depend on the other."""

    def __init__(self):
        super().__init__()
        self.idle, self.aux = nn.Conv2d(3, 2, 1).double(), nn.Conv2d(3, 5, 1).double()
        self.eval()

    def forward(self, x):
        self.aux(x)
        return super().forward(x)


def test_layers_that_score_zero_are_named():
    with pytest.warns(UserWarning, match=r"^scored 0, as in eval mode the logits do not depend on them: idle, aux$"):
        scores = fgp.score(Idle(), [classification(), classification()])
    assert scores["idle"].tolist() == [0] * 2
    assert scores["aux"].tolist() == [0] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fgp.score(Steps(), [classification()])


@pytest.mark.skipif("MUTANT_UNDER_TEST" in os.environ, reason="mutmut calls every function through another")
def test_the_warning_points_to_the_caller_of_score():
    with pytest.warns(UserWarning, match="scored 0") as caught:
        fgp.score(Idle(), [classification()])
    assert [warning.filename for warning in caught] == [__file__]


def test_the_first_layer_called_is_named_not_the_first_defined():
    class Backwards(Steps):
        def __init__(self):
            super().__init__()
            self.before = nn.Conv2d(3, 3, 1).double()
            self.before.weight.data[1] = float("nan")
            self.eval()

        def forward(self, x):
            return super().forward(self.before(x))

    for variant in ({}, {"form": "elementwise"}, {"evidence": "feature"}, {"feature": "postrelu"}):
        with pytest.raises(FgpError, match=r"^before: an activation is NaN or infinite; check the weights"):
            fgp.score(Backwards(), [classification()], **variant)


class NaNBehind(torch.autograd.Function):
    """Hands logits on; gradients of class 1 become NaN, those of other classes pass."""

    @staticmethod
    def forward(_, logits):
        return logits.clone()

    @staticmethod
    def backward(_, gradient):
        return torch.full_like(gradient, float("nan")) if gradient[:, 1].any() else gradient


@pytest.mark.parametrize("variant", [{}, {"form": "elementwise"}, {"normalise": "jointmax"}, {"evidence": "gradient"}])
@pytest.mark.parametrize("classes", [(0, 1, 2), (1, 2, 3), (2, 3, 1), (0, 2, 3)])
def test_a_gradient_that_is_nan_in_any_backward_pass_is_refused(variant, classes):
    model, (images, _) = residual(segmentation=True), segmentation()
    labels = torch.tensor(classes)[torch.arange(64).view(1, 8, 8) % 3].expand(3, 8, 8)
    model.register_forward_hook(lambda _, __, output: NaNBehind.apply(output))
    if 1 not in classes:
        fgp.score(model, [(images, labels)], **variant)
        return
    with pytest.raises(FgpError, match=r"^stem: a gradient is NaN or infinite; check the weights"):
        fgp.score(model, [(images, labels)], **variant)


@pytest.mark.filterwarnings("error")
def test_batches_without_an_active_class_count():
    model, (images, labels) = residual(segmentation=True), segmentation()
    void = torch.full_like(labels, 255)
    message = r"^batches: none of the 5 images has an active class \(classes='correct'\); nothing to score$"
    with pytest.raises(FgpError, match=message):
        fgp.score(model, [(images, void), (images[:2], void[:2])], classes="correct")
    expected = fgp.score(model, [(images, labels)])
    assert_equal(fgp.score(model, [(images, labels), (images, void)]), expected)
    assert_equal(fgp.score(model, [(images, void), (images, labels)]), expected)
    for evidence in ("feature", "gradient"):
        expected = fgp.score(model, [(images, labels)], evidence=evidence)
        assert_equal(fgp.score(model, [(images, labels), (images, void)], evidence=evidence), expected)


# Networks and images


def test_networks_that_are_refused_are_named():
    model = residual()
    model.conv2.bfloat16()
    with pytest.raises(FgpError, match=r"^conv2: weights are torch\.bfloat16; score in float32, model\.float\(\)$"):
        check_model(model)
    with pytest.raises(FgpError, match=r"^Residual: in training mode; call model\.eval\(\) before scoring$"):
        check_model(residual().train())
    model = residual()
    model.norm0.train()
    with pytest.raises(FgpError, match=r"^norm0: in training mode"):
        check_model(model)
    model.norm0 = nn.BatchNorm2d(6, track_running_stats=False).eval()
    with pytest.raises(
        FgpError, match=r"^norm0: normalises by the statistics of the batch, .*; give it track_running_stats=True$"
    ):
        check_model(model)
    model.norm0 = nn.BatchNorm2d(6, affine=False).eval()
    assert check_model(model) == torch.float64
    assert check_model(residual().float()) == torch.float32


def test_images_come_in_the_type_of_the_weights():
    model, (images, _) = residual().float(), classification()
    assert place(images.requires_grad_(), model).dtype == torch.float32
    assert not place(images, model).requires_grad
    for wrong, shape in ((images[0], r"\(3, 8, 8\)"), (images[:0], r"\(0, 3, 8, 8\)"), (images[None], r"\(1, 5, 3, 8, 8\)")):
        with pytest.raises(FgpError, match=f"^batches: images have shape {shape}; give"):
            place(wrong, model)
    with pytest.raises(FgpError, match=r"^batches: images are torch\.uint8; give normalised floats"):
        place(images.detach().byte(), model)


def test_the_example_is_the_first_image():
    model, (images, labels) = residual().float(), classification()
    assert torch.equal(example_of(model, [(images, labels), (images + 1, labels)]), images[:1].float())
    for none in ([], iter(())):
        with pytest.raises(FgpError, match=r"^batches: holds no image; give at least one batch"):
            example_of(model, none)
    with pytest.raises(FgpError, match="uint8"):
        example_of(model, [(images.byte(), labels)])


@pytest.mark.parametrize("evidence", ["both", "feature", "gradient"])
def test_autocast_of_the_caller_changes_nothing(evidence):
    model, batch = residual().float(), classification()
    expected = fgp.score(model, [batch], evidence=evidence)
    with torch.autocast("cpu", torch.bfloat16):
        scores = fgp.score(model, [batch], evidence=evidence)
    assert {values.dtype for values in scores.values()} == {torch.float32}
    assert all(torch.equal(scores[name], values) for name, values in expected.items())


def test_weights_are_frozen_inside_and_as_before_behind():
    model = residual()
    model.norm1.weight.requires_grad_(False)

    def fail():
        assert torch.is_grad_enabled()
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torch.no_grad(), differentiable(model):
        fail()
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["norm1.weight"]


def test_without_gradients_no_graph_is_built_and_with_them_the_last_pass_frees_it(monkeypatch):
    model, (images, labels) = residual(segmentation=True), segmentation()
    kept, backward, enabled = [], torch.autograd.grad, []
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args, **options: kept.append(options["retain_graph"]) or backward(*args, **options)
    )
    model.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    labels[0, 2:5], labels[0, 5:], labels[2, 2:] = 0, 1, 3
    fgp.score(model, [(images, labels)])
    fgp.score(model, [(images, labels)], evidence="feature")
    assert kept == [True, False]
    assert enabled == [True, False]


# Heat maps


def test_heatmaps_of_every_class_by_loops():
    for model, (images, labels), layer in (
        (plain(), classification(3), "b"),
        (residual(segmentation=True), segmentation(), "conv1"),
    ):
        maps = heatmaps(model, images, labels, layer)
        for n in range(3):
            for d in range(4):
                feature, gradient = feature_and_gradient(model, model.get_submodule(layer), images[n : n + 1], labels[n], d)
                expected = (gradient.mean((1, 2), keepdim=True) * feature).clamp(min=0)
                torch.testing.assert_close(maps[n, :, d], expected)
                torch.testing.assert_close(
                    maps[n, :, d].sum((1, 2)), torch.stack(channel_sums(feature, gradient, "canonical", None, "both"))
                )


def test_heatmaps_take_the_output_that_is_asked_for():
    images, labels = classification()
    expected = heatmaps(Steps(), images, labels, "conv")
    model = Steps()
    model.register_forward_hook(lambda _, __, output: (0, output))
    torch.testing.assert_close(heatmaps(model, images, labels, "conv", output=lambda pair: pair[1]), expected)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [("conv11", "conv1 or conv2"), ("zzz", "stem or conv1 or conv2 or head"), ("norm1", "stem or conv1 or conv2 or head")],
)
def test_heatmaps_name_the_layers_that_there_are(layer, advice):
    with pytest.raises(FgpError, match=f"^layer '{layer}': no Conv2d of that name; use {advice}$"):
        heatmaps(residual(segmentation=True), *segmentation(), layer)


def test_no_more_than_three_names_are_proposed():
    model = nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(5)])
    model = nn.ModuleDict({f"conv{n}": layer for n, layer in enumerate(model)})
    with pytest.raises(FgpError, match=r"use conv\d or conv\d or conv\d$"):
        heatmaps(model.eval(), *segmentation(), "conv9")
