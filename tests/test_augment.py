import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from fgp.data import Dataset, Split, batches
from fgp.train import Recipe
from fgp.train.augment import Augmentation

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
VOID = 255


def augmentation(size, **fields):
    recipe = Recipe(epochs=1, lr=0.1, **fields)
    return Augmentation(recipe, size, VOID, torch.tensor(MEAN), torch.tensor(STD))


def some_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(image):
    return reference.normalize(image.float() / 255, MEAN, STD)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_classification_equals_torchvision_at_the_same_offsets():
    images, labels = some_images(40, 3, 32, 32), torch.arange(40, dtype=torch.uint8)
    augment = augmentation((32, 32), crop_padding=4, flip=True)
    draws = augment.draw(40, generator())
    out, same_labels = augment.apply(images, labels, draws)
    assert draws.flip.any()
    assert not draws.flip.all()
    for image, (top, left), flip, got in zip(images, draws.corner.tolist(), draws.flip, out, strict=True):
        expected = reference.crop(reference.pad(image, [4]), top, left, 32, 32)
        expected = reference.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(got, normalised(expected))
    assert same_labels.dtype == torch.int64
    assert same_labels.tolist() == labels.tolist()


def test_offsets_and_flips_are_uniform():
    count = 81 * 400
    draws = augmentation((32, 32), crop_padding=4, flip=True).draw(count, generator(3))
    cells = torch.bincount(draws.corner[:, 0] * 9 + draws.corner[:, 1], minlength=81).double()
    assert len(cells) == 81
    chi_squared = float(((cells - 400) ** 2 / 400).sum())
    assert 80 - 5 * 160**0.5 < chi_squared < 80 + 5 * 160**0.5
    assert abs(float(draws.flip.double().mean()) - 0.5) < 4 * 0.5 / count**0.5


def test_without_augmentation_the_batch_is_only_normalised():
    split = Split(some_images(6, 3, 8, 10), torch.zeros(6, dtype=torch.uint8))
    dataset = Dataset(split, split, ("a",), 1, MEAN, STD, "classification", VOID, "test")
    augment = augmentation((8, 10))
    out, _ = augment.apply(split.images, split.labels, augment.draw(6, generator()))
    torch.testing.assert_close(out, next(iter(batches(split, dataset, 6)))[0])


def reference_segmentation(image, label, size, corner, flip, crop):
    """Resize, pad, crop and flip one image the slow way: normalised image, label, and where torch's label is beyond doubt.

    Where a pixel's centre falls between two source pixels, torch's nearest neighbour depends on the rounding of a float32.
    """
    exact = [[(2 * i + 1) * old % (2 * new) != 0 for i in range(new)] for old, new in zip(image.shape[1:], size, strict=True)]
    exact = torch.tensor(exact[0])[:, None] & torch.tensor(exact[1])
    image = reference.resize(image.float(), size, antialias=False)
    label = reference.resize(label[None], size, interpolation=reference.InterpolationMode.NEAREST_EXACT)
    below, right = max(0, crop[0] - size[0]), max(0, crop[1] - size[1])
    image = reference.pad(image, [0, 0, right, below])
    label = reference.pad(label, [0, 0, right, below], fill=VOID)
    exact = reference.pad(exact[None], [0, 0, right, below], fill=1)
    image, label, exact = (reference.crop(x, *corner, *crop) for x in (image, label, exact))
    if flip:
        image, label, exact = (reference.horizontal_flip(x) for x in (image, label, exact))
    return normalised(image), label[0].long(), exact[0]


@pytest.mark.parametrize(
    ("fields", "crop"),
    [
        ({"scale_range": (0.5, 2.0)}, (24, 31)),
        ({"scale_range": (0.5, 2.0), "crop_size": (16, 40)}, (16, 40)),
        ({"scale_range": (1.0, 1.0)}, (24, 31)),
        ({"crop_size": (10, 12)}, (10, 12)),
        ({"crop_size": (30, 12)}, (30, 12)),
    ],
)
def test_segmentation_equals_torchvision_at_the_same_draws(fields, crop):
    images, labels = some_images(24, 3, 24, 31), some_images(24, 24, 31) % 12
    augment = augmentation((24, 31), flip=True, **fields)
    draws = augment.draw(24, generator())
    out, out_labels = augment.apply(images, labels, draws)
    assert out.shape == (24, 3, *crop)
    for n in range(24):
        expected, expected_label, exact = reference_segmentation(
            images[n], labels[n], draws.size[n].tolist(), draws.corner[n].tolist(), draws.flip[n], crop
        )
        torch.testing.assert_close(out[n], expected, atol=2e-4, rtol=0)
        assert (out_labels[n] == expected_label)[exact].all()
        assert exact.float().mean() > 0.2


def test_scales_are_uniform_and_crops_stay_inside():
    augment = augmentation((100, 200), scale_range=(0.5, 2.0), crop_size=(80, 90))
    draws = augment.draw(4000, generator())
    scale = draws.size[:, 0] / 100
    assert scale.min() >= 0.5
    assert scale.max() <= 2.0
    shares = torch.histc(scale, bins=3, min=0.5, max=2.0) / 4000
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 4000) ** 0.5
    assert (draws.size[:, 1] - 2 * draws.size[:, 0]).abs().max() <= 1
    room = (draws.size - torch.tensor([80, 90])).clamp(min=0)
    assert (draws.corner >= 0).all()
    assert (draws.corner <= room).all()
    assert (draws.corner == room).any(0).all()


def test_draws_are_made_for_each_image_and_follow_the_generator():
    augment = augmentation((32, 32), crop_padding=4, flip=True)
    first, again, other = (augment.draw(50, generator(seed)) for seed in (1, 1, 2))
    assert len(first.corner.unique(dim=0)) > 20
    assert (first.corner == again.corner).all()
    assert (first.flip == again.flip).all()
    assert (first.corner != other.corner).any()
    assert (first[slice(10, 20)].corner == first.corner[10:20]).all()


def test_parts_of_a_batch_give_what_the_whole_gives():
    images, labels = some_images(10, 3, 24, 30), some_images(10, 24, 30) % 5
    augment = augmentation((24, 30), scale_range=(0.5, 2.0), flip=True)
    draws = augment.draw(10, generator())
    whole = augment.apply(images, labels, draws)
    parts = [augment.apply(images[part], labels[part], draws[part]) for part in (slice(0, 3), slice(3, 10))]
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([part[index] for part in parts]), whole[index])
