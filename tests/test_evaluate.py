import pytest
import torch
from torch import nn

from fgp.data import Dataset, Split
from fgp.errors import FgpError
from fgp.evaluate import confusion_matrix, evaluate, mean_iou

VOID = 255


def random(seed):
    return torch.Generator().manual_seed(seed)


def dataset_of(images, labels, classes, outputs, task):
    split = Split(images, labels)
    names = tuple(f"class {n}" for n in range(classes))
    return Dataset(split, split, names, outputs, (0.5,) * 3, (0.25,) * 3, task, VOID, "test")


class Recorder(nn.Module):
    """A 1x1 convolution, pooled for classification, that remembers its batch sizes."""

    def __init__(self, outputs, dense):
        super().__init__()
        self.conv, self.dense, self.batches = nn.Conv2d(3, outputs, 1), dense, []

    def forward(self, x):
        assert not self.training
        self.batches.append(len(x))
        out = self.conv(x)
        return out if self.dense else out.mean((2, 3))


def segmentation(seed=0, classes=4, outputs=6, count=7, missing=()):
    images = torch.randint(0, 256, (count, 3, 9, 11), dtype=torch.uint8, generator=random(seed))
    labels = torch.randint(0, classes, (count, 9, 11), dtype=torch.uint8, generator=random(seed + 1))
    for label in missing:
        labels[labels == label] = VOID
    labels[:, 0] = VOID
    return dataset_of(images, labels, classes, outputs, "segmentation")


def literal_miou(model, dataset):
    """Mean IoU by its definition, pixel by pixel."""
    inter, union = {}, {}
    for image, label in zip(dataset.test.images, dataset.test.labels, strict=True):
        with torch.no_grad():
            prediction = model.eval()((image[None].float() / 255 - 0.5) / 0.25)[0].argmax(0)
        for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
            if t == VOID:
                continue
            for c in {p, t} & set(range(len(dataset.classes))):
                union[c] = union.get(c, 0) + 1
                inter[c] = inter.get(c, 0) + (p == t)
    return 100 * sum(inter[c] / union[c] for c in union) / len(union)


@pytest.mark.parametrize("missing", [(), (1,), (0, 2)])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_miou_is_the_literal_one(missing, batch_size):
    torch.manual_seed(0)
    dataset = segmentation(missing=missing)
    model = Recorder(6, dense=True)
    with torch.no_grad():
        model.conv.bias[4] += 0.2
        model.conv.bias[1] -= 100 * (1 in missing)
    predicted = evaluate(model, dataset.test, dataset, "cpu", batch_size)
    assert predicted == pytest.approx(literal_miou(model, dataset), abs=1e-9)
    assert 0 < predicted < 100


def test_miou_by_hand():
    labels = torch.tensor([[0, 0, 0, 1, 1, VOID]])
    predictions = torch.tensor([[0, 0, 3, 1, 0, 1]])
    confusion = confusion_matrix(predictions, labels, classes=3, outputs=4, void=VOID)
    assert confusion.tolist() == [[2, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert mean_iou(confusion) == pytest.approx(100 * (2 / 4 + 1 / 2) / 2)


def test_a_class_only_predicted_counts_as_zero():
    confusion = confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0]), classes=3, outputs=3, void=VOID)
    assert mean_iou(confusion) == pytest.approx(100 * (1 / 2 + 0) / 2)


def test_only_void_pixels_is_an_error():
    dataset = segmentation(missing=range(4))
    with pytest.raises(FgpError, match="void"):
        evaluate(Recorder(6, dense=True), dataset.test, dataset, "cpu", 2)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_top1_is_the_literal_one(batch_size):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 5, (30,), dtype=torch.uint8)
    dataset = dataset_of(images, labels, 5, 5, "classification")
    model = Recorder(5, dense=False).eval()
    with torch.no_grad():
        model.conv.weight *= 30
        right = sum(int(model((x[None].float() / 255 - 0.5) / 0.25).argmax() == y) for x, y in zip(images, labels, strict=True))
    assert 0 < right < 30
    assert evaluate(model, dataset.test, dataset, "cpu", batch_size) == pytest.approx(100 * right / 30)


def test_the_mode_comes_back_even_after_a_failure():
    dataset = segmentation()
    model = Recorder(6, dense=True).train()
    evaluate(model, dataset.test, dataset, "cpu", 4)
    assert model.training
    broken = nn.Sequential(nn.Conv2d(2, 6, 1)).train()
    with pytest.raises(RuntimeError):
        evaluate(broken, dataset.test, dataset, "cpu", 4)
    assert broken.training


def test_big_images_come_in_small_batches(monkeypatch):
    monkeypatch.setattr("fgp.evaluate._LOGIT_BYTES", 2 * 4 * 6 * 9 * 11 + 100)
    dataset = segmentation()
    model = Recorder(6, dense=True)
    evaluate(model, dataset.test, dataset, "cpu", 64)
    assert model.batches == [2, 2, 2, 1]
