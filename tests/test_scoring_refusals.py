import pytest
import torch
from reference_fgp import assert_equal, literal_scores
from scoring_networks import classification, plain, residual, segmentation
from torch import nn

import fgp
from fgp import FgpError
from fgp.models import build
from fgp.variants import Variant


class Wrapped(nn.Module):
    """A network around `residual` whose forward pass a test changes."""

    def __init__(self, forward, model=None):
        super().__init__()
        self.inner = model or residual()
        self.extra = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        self._forward = forward
        self.eval()

    def forward(self, x):
        return self._forward(self, x)


def refused(message, model=None, batch=None, **options):
    with pytest.raises(FgpError, match=message):
        fgp.score(model or residual(), [batch or classification()], **options)


def test_a_convolution_called_twice():
    refused("^extra: called more than once", Wrapped(lambda self, x: self.inner(self.extra(self.extra(x)))))


def test_gradients_turned_off_inside():
    def forward(self, x):
        with torch.no_grad():
            x = self.extra(x)
        return self.inner(x)

    refused(r"^extra: .*no_grad", Wrapped(forward))
    fgp.score(Wrapped(forward), [classification()], evidence="feature")


def test_training_mode():
    model = residual()
    model.norm1.train()
    refused(r"^norm1: .*model\.eval\(\)", model)
    refused("^Residual: in training mode", residual().train())


def test_batch_statistics():
    model = residual()
    model.norm2 = nn.BatchNorm2d(6, track_running_stats=False, dtype=torch.float64).eval()
    refused("^norm2: .*statistics of the batch", model)


def test_half_precision_and_networks_without_convolutions():
    refused("bfloat16.*float32", residual().bfloat16())
    refused("no Conv2d", nn.Linear(3, 3).eval())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 4]), "hold 4, the network has 4 outputs"),
        (torch.tensor([0, 1, 2, 3, -1]), "hold -1"),
        (torch.tensor([0, 1, 2, 3, 255]), "hold 255"),
        (torch.zeros(5), "float32"),
        (torch.zeros(4, dtype=torch.int64), r"shape \(4,\)"),
        (torch.zeros(5, 8, 8, dtype=torch.int64), r"shape \(5, 8, 8\)"),
    ],
)
def test_labels(labels, message):
    refused(message, batch=(classification()[0], labels))


def test_segmentation_labels():
    images, labels = segmentation()
    refused("hold 4, .*255", residual(segmentation=True), (images, labels.masked_fill(labels == 0, 4)))
    refused(r"ask for \(3, 8, 8\)", residual(segmentation=True), (images, labels[:, :4]))
    refused(r"ask for \(3, 8, 8\)", residual(segmentation=True), (images, labels[:, 0, 0]))


def test_uint8_labels_are_fine():
    images, labels = segmentation()
    model = residual(segmentation=True)
    assert_equal(fgp.score(model, [(images, labels.byte())]), fgp.score(model, [(images, labels)]))


def test_images():
    images, labels = classification()
    refused("uint8", batch=(images.byte(), labels))
    refused(r"shape \(0, 3, 8, 8\)", batch=(images[:0], labels[:0]))
    refused(r"shape \(3, 8, 8\)", batch=(images[0], labels[:1]))
    with pytest.raises(FgpError, match="no image"):
        fgp.score(residual(), [])


def test_no_active_class():
    images, labels = segmentation()
    refused("none of the 3 images has an active class", residual(segmentation=True), (images, torch.full_like(labels, 255)))


def test_nan_and_infinity_name_the_first_layer():
    for value in (float("nan"), float("inf"), -float("inf")):
        model = residual()
        model.conv1.bias.data[2] = value
        refused("^conv1: an activation is NaN or infinite", model)
        refused("^conv1: an activation", model, normalise="minmax_u8")
    model = residual()
    model.head.weight.data[1, 2] = float("nan")
    images, _ = classification()
    refused("gradient is NaN", model, (images, torch.ones(5, dtype=torch.int64)))


def test_unknown_variants_name_the_closest():
    refused("form: 'elementwize'; did you mean elementwise", form="elementwize")
    refused("feature: 'zzz'; give conv or postrelu", feature="zzz")
    with pytest.raises(FgpError, match=r"clases: .*did you mean classes"):
        Variant.of({"clases": "true"})


def test_contradictions_are_refused_and_every_single_variant_is_legal():
    refused("gapfirst", form="gapfirst", normalise="jointmax")
    refused("elementwise", form="elementwise", evidence="feature")
    refused("softmax", target="softmax", evidence="feature")
    refused("gapfirst", form="gapfirst", evidence="gradient")
    refused("constant maps", normalise="minmax_u8", evidence="gradient")
    single = {
        "feature": ["conv", "postrelu"],
        "form": ["canonical", "gapfirst", "elementwise", "abs"],
        "normalise": [None, "minmax_u8", "jointmax"],
        "target": ["logit", "softmax"],
        "classes": ["true", "predicted", "correct", "all"],
        "evidence": ["both", "feature", "gradient"],
    }
    for key, values in single.items():
        for value in values:
            assert getattr(Variant.of({key: value}), key) == value


def test_output_picks_the_logits():
    batch = classification()
    expected = {f"inner.{name}": scores for name, scores in fgp.score(residual(), [batch]).items()}

    def score(forward, **options):
        with pytest.warns(UserWarning, match="scored 0.*: extra$"):
            scores = fgp.score(Wrapped(forward), [batch], **options)
        assert torch.equal(scores.pop("extra"), torch.zeros(3, dtype=torch.float64))
        return scores

    assert_equal(score(lambda self, x: {"out": self.inner(x), "aux": self.extra(x)}), expected)
    assert_equal(score(lambda self, x: (self.inner(x), 0), output=lambda pair: pair[0]), expected)
    refused("a tuple of 2; pass output=", Wrapped(lambda self, x: (self.inner(x), 0)))
    refused("keys logits; pass output=", Wrapped(lambda self, x: {"logits": self.inner(x)}))
    refused(r"float64 of shape \(5,\)", Wrapped(lambda self, x: self.inner(x).sum(1)))
    refused("4 rows of logits for 5 images", Wrapped(lambda self, x: self.inner(x)[1:]))


def test_logits_that_depend_on_no_convolution():
    refused("do not depend on any convolution", Wrapped(lambda self, x: self.inner(x).detach()))


def test_an_auxiliary_head_that_only_trains_scores_zero_with_a_warning():
    torch.manual_seed(0)
    model = build("deeplabv3", 4, 1 / 32).eval()
    images, labels = segmentation(count=3, size=32)
    with pytest.warns(UserWarning, match=r"scored 0.*auxiliary\.0"):
        scores = fgp.score(model, [(images, labels)])
    assert len(scores) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert not scores["auxiliary.0"].any()


def test_heatmaps_sum_to_the_scores():
    for model, batch in ((plain(), classification()), (residual(segmentation=True), segmentation())):
        images, labels = batch
        for layer, scores in literal_scores(model, [batch]).items():
            maps = fgp.scoring.heatmaps(model, images, labels, layer)
            assert maps.shape[:3] == (len(images), len(scores), 4)
            assert (maps >= 0).all()
            sums = maps.sum((3, 4))
            own = sums[torch.arange(len(labels)), :, labels] if labels.ndim == 1 else sums.sum(2)
            torch.testing.assert_close(own.sum(0), scores, rtol=1e-9, atol=1e-12)


def test_heatmaps_name_the_closest_layer():
    with pytest.raises(FgpError, match=r"'conv11'.*conv1"):
        fgp.scoring.heatmaps(residual(), *classification(), "conv11")
    with pytest.raises(FgpError, match="not called"):
        fgp.scoring.heatmaps(Wrapped(lambda self, x: self.inner(x)), *classification(), "extra")


def test_a_network_without_convolutions_is_named():
    with pytest.raises(FgpError, match=r"^Flatten: has no Conv2d layer"):
        fgp.score(nn.Flatten().eval(), [classification()])
