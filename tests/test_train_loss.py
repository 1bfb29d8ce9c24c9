import pytest
import torch
import torch.nn.functional as F

from fgp.errors import FgpError
from fgp.train import Recipe
from fgp.train import loss as losses

VOID = 255
RECIPE = Recipe(epochs=1, lr=0.1)


def labels_and_logits():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 5, 6), generator=generator)
    labels[:, 0] = VOID
    return labels, torch.randn(4, 4, 5, 6, generator=generator)


def build(recipe, labels, task="segmentation"):
    return losses.build(recipe, labels.to(torch.uint8), 4, task, VOID, "cpu")


def test_segmentation_loss_is_torchs_mean_without_void():
    labels, logits = labels_and_logits()
    torch.testing.assert_close(build(RECIPE, labels)(logits, labels), F.cross_entropy(logits, labels, ignore_index=VOID))


def test_only_void_pixels_give_zero_and_a_finite_gradient():
    labels, logits = torch.full((2, 5, 6), VOID), torch.randn(2, 4, 5, 6, requires_grad=True)
    weighted = RECIPE.model_copy(update={"class_weights": "median_frequency"})
    for recipe in (RECIPE, weighted):
        loss = build(recipe, labels_and_logits()[0])(logits, labels)
        assert loss.item() == 0
        loss.backward()
        assert (logits.grad == 0).all()


def test_classification_has_no_void():
    labels, logits = torch.tensor([0, VOID]), torch.randn(2, 300)
    torch.testing.assert_close(build(RECIPE, labels, "classification")(logits, labels), F.cross_entropy(logits, labels))


def test_median_frequency_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 2, 2]], [[1, VOID, VOID, VOID]]], dtype=torch.uint8)
    frequency = {0: 5 / 8, 1: 2 / 5, 2: 2 / 4}
    expected = [0.5 / frequency[0], 0.5 / frequency[1], 0.5 / frequency[2], 0.0]
    torch.testing.assert_close(losses.median_frequency(labels, 4, VOID), torch.tensor(expected))


def test_weighted_loss_is_torchs():
    labels, logits = labels_and_logits()
    weight = losses.median_frequency(labels.to(torch.uint8), 4, VOID)
    assert len(weight.unique()) == 4
    recipe = RECIPE.model_copy(update={"class_weights": "median_frequency"})
    expected = F.cross_entropy(logits, labels, weight, ignore_index=VOID)
    torch.testing.assert_close(build(recipe, labels)(logits, labels), expected)


def test_weights_of_void_alone_are_an_error():
    with pytest.raises(FgpError, match="class_weights"):
        losses.median_frequency(torch.full((2, 3, 3), VOID, dtype=torch.uint8), 4, VOID)
