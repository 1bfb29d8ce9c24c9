"""What is differentiated and by which variant: logits, labels, the classes of each backward pass, keywords."""

import pytest
import torch

from fgp import FgpError
from fgp.scoring.logits import check_labels, pick_logits
from fgp.scoring.targets import Targets
from fgp.variants import Variant


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("text", "the network returns str; pass output=, a function that picks the logits from it"),
        (None, "the network returns NoneType; pass"),
        ([1, 2, 3], "the network returns a list of 3; pass"),
        ((), "the network returns a tuple of 0; pass"),
        ({"aux": 0, 7: 1}, "the network returns a mapping with the keys aux, 7; pass"),
        (torch.zeros(2, 3, 4), r"the network returns torch\.float32 of shape \(2, 3, 4\); logits are floats .*, pass output=$"),
        (torch.zeros(2, 3).long(), r"the network returns torch\.int64 of shape \(2, 3\); logits are floats"),
    ],
)
def test_what_is_no_logits_is_described(returned, message):
    with pytest.raises(FgpError, match=f"^{message}"):
        pick_logits(returned, None)
    with pytest.raises(FgpError, match=f"^{message}"):
        pick_logits(0, lambda _: returned)


def test_logits_are_picked():
    flat, dense = torch.randn(2, 3), torch.randn(2, 3, 4, 5)
    assert torch.equal(pick_logits(flat, None), flat[:, :, None, None])
    assert torch.equal(pick_logits({"out": dense, "aux": flat}, None), dense)
    assert torch.equal(pick_logits({"out": dense, "aux": flat}, lambda found: found["aux"]), flat[:, :, None, None])
    with pytest.raises(FgpError, match=r"^the network returns a tuple of 2; pass"):
        pick_logits({"out": (flat, dense)}, None)


def test_labels_are_those_of_the_outputs():
    flat, dense = torch.zeros(3, 300, 1, 1), torch.zeros(3, 4, 2, 2)
    assert check_labels(torch.tensor([0, 255, 299]), flat).tolist() == [[[0]], [[255]], [[299]]]
    assert check_labels(torch.tensor([0, 255, 299]).view(3, 1, 1), flat).tolist() == [[[0]], [[-1]], [[299]]]
    labels = torch.tensor([[0, 1], [2, 3]]).expand(3, 2, 2).clone()
    labels[1, 0, 1] = 255
    found = check_labels(labels.byte(), dense)
    assert found.dtype == torch.int64
    assert found.tolist() == [[[0, 1], [2, 3]], [[0, -1], [2, 3]], [[0, 1], [2, 3]]]
    for wrong, logits, message in (
        (labels[:2], dense, r"labels have shape \(2, 2, 2\), the logits ask for \(3, 2, 2\); see `batches` of fgp\.score"),
        (labels[:, 0, 0], dense, r"labels have shape \(3,\), the logits ask for \(3, 2, 2\); "),
        (labels, flat, r"labels have shape \(3, 2, 2\), the logits ask for \(3, 1, 1\); "),
        (torch.tensor([0, 1, 2]), dense[:, :, :1], r"labels have shape \(3,\), the logits ask for \(3, 1, 2\); "),
        (labels[0, :, 0], flat, r"labels have shape \(2,\), the logits ask for \(3,\); "),
        (labels.double(), dense, r"labels are torch\.float64; give class numbers as integers$"),
        (labels.bool(), dense, r"labels are torch\.bool; give"),
        (labels.cfloat(), dense, r"labels are torch\.complex64; give"),
        (labels + 1, dense, r"labels hold 4, the network has 4 outputs; labels are 0 to 3 or 255 \(void\)$"),
        (labels - 1, dense, r"labels hold -1, the network has 4 outputs; labels are 0 to 3 or 255 \(void\)$"),
        (torch.tensor([0, 300, 301]), flat, "labels hold 300, the network has 300 outputs; labels are 0 to 299$"),
    ):
        with pytest.raises(FgpError, match=f"^{message}"):
            check_labels(wrong, logits)


@pytest.mark.parametrize(
    ("classes", "counts", "expected"),
    [
        ("true", [2, 0, 1], ["02 2.", ".. ..", "00 00"]),
        ("predicted", [3, 0, 3], ["01 2.", ".. ..", "01 20"]),
        ("correct", [2, 0, 1], ["0. 2.", ".. ..", "0. .0"]),
        ("all", [3, 0, 3], ["** *.", ".. ..", "** **"]),
    ],
)
def test_each_active_class_of_an_image_has_its_turn(classes, counts, expected):
    labels = torch.tensor([[[0, 2], [2, -1]], [[-1, -1], [-1, -1]], [[0, 0], [0, 0]]])
    predicted = torch.tensor([[[0, 1], [2, 2]], [[0, 1], [2, 2]], [[0, 1], [2, 0]]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(3, 1).double()
    targets = Targets(logits, labels, classes)
    assert targets.counts.tolist() == counts
    assert targets.counts.dtype == torch.int64
    turns = list(targets)
    assert len(turns) == targets.passes == max(counts)
    for turn in turns:
        assert turn.dtype == torch.float64
        assert (turn.flatten(2).any(2).sum(1) <= 1).all()
    active = torch.tensor([[[[k in f"{d}*" for k in row] for row in image.split()] for d in range(3)] for image in expected])
    assert torch.equal(sum(turns), active.double())


def test_unknown_variants_get_three_proposals_and_all_that_is_legal():
    legal = "feature, form, normalise, target, classes, evidence"
    for word, proposals in (("release", "classes or normalise or feature"), ("classe", "classes or normalise"), ("xyz", "")):
        message = f"^option {word}: FGP has no such option; {f'did you mean {proposals}[?] ' * bool(proposals)}legal: {legal}$"
        with pytest.raises(FgpError, match=message):
            Variant.of({"form": "abs", word: "x"})
    with pytest.raises(FgpError, match=r"^option normalise: 'jointmix'; did you mean jointmax\? give minmax_u8 or jointmax$"):
        Variant.of({"normalise": "jointmix"})


def test_contradictions_say_what_to_use():
    gapfirst, elementwise = {"form": "gapfirst"}, {"form": "elementwise"}
    for options, message in (
        ({"normalise": "jointmax", **gapfirst}, "normalise='jointmax': form='gapfirst' .* leaves nothing to normalise$"),
        ({"evidence": "feature", **elementwise}, "form='elementwise': evidence='feature' .*; use form='canonical'$"),
        ({"evidence": "feature", "target": "softmax"}, "target='softmax': evidence='feature' .*; leave target out$"),
        ({"evidence": "gradient", **gapfirst}, "form='gapfirst': evidence='gradient' .*; use form='canonical', it is the same$"),
        ({"evidence": "gradient", "normalise": "minmax_u8"}, "normalise='minmax_u8': .*; use form='elementwise'$"),
        ({"evidence": "gradient", "normalise": "minmax_u8", "form": "abs"}, "normalise='minmax_u8': .*'$"),
    ):
        with pytest.raises(FgpError, match=f"^option {message}"):
            Variant.of(options)
    for options in (
        {"evidence": "gradient", "normalise": "minmax_u8", **elementwise},
        {"evidence": "gradient", "normalise": "jointmax"},
        {"evidence": "gradient", "target": "softmax", **elementwise},
        {"evidence": "feature", "normalise": "minmax_u8"},
        {"target": "softmax", **gapfirst},
    ):
        assert all(getattr(Variant.of(options), key) == value for key, value in options.items())
