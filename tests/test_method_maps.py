"""HRank, FPEI and RFC, the methods that read feature maps, and the passes and ranks below them."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from reference_fgp import randomise
from scoring_networks import POSTRELU, classification, residual
from torch import nn

import baselines
from fgp import FgpError
from fgp.models import build
from fgp.scoring.passes import feature_maps
from fgp.scoring.rank import matrix_ranks

HRANK, FPEI, RFC = (baselines.get(name) for name in ("hrank", "fpei", "rfc"))


class Through(nn.Module):
    """Hands the images on: its feature map is the ReLU of the image."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv.weight.data.copy_(torch.eye(channels)[:, :, None, None])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(x)).add_(1).mean((2, 3))


def of_images(method, images, labels=None, **options):
    """Return the scores of the channels of `images` themselves."""
    return method.score(Through(images.shape[1]).eval(), [(images, labels)], 0, **options)["conv"]


def literal_maps(model, batches):
    """Return {layer: [(C, H, W) of each image]} of `residual`, by hooks on the modules that end each layer."""
    maps = {name: [] for name in (*POSTRELU, "head") if isinstance(model.get_submodule(name), nn.Conv2d)}
    handles = [
        model.get_submodule(POSTRELU.get(name, name)).register_forward_hook(
            lambda _, __, output, kept=kept: kept.extend(output.detach().clone())
        )
        for name, kept in maps.items()
    ]
    for images, _ in batches:
        model(images)
    for handle in handles:
        handle.remove()
    return maps


def batches(count=24):
    images, labels = classification(count=count)
    return [(images[:10].float(), labels[:10]), (images[10:].float(), labels[10:])]


# Passes


def collect(model, batches, **options):
    maps = {}
    images = feature_maps(model, batches, lambda name, x, _: maps.setdefault(name, []).append(x.clone()), **options)
    return maps, images


def test_passes_read_in_place_networks_where_hooks_do():
    torch.manual_seed(0)
    model = randomise(torchvision.models.resnet18(num_classes=4)).float()
    data = [(torch.randn(n, 3, 32, 32), None) for n in (3, 2)]
    expected, raw = {}, {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            norm = name.replace("downsample.0", "downsample.1").replace("conv", "bn")
            by_relu = norm.endswith("bn1")  # the others meet the sum first
            modules[norm].register_forward_hook(
                lambda _, __, output, name=name, relu=by_relu: expected.setdefault(name, []).append(
                    output.detach().clamp(min=0) if relu else output.detach().clone()
                )
            )
            module.register_forward_hook(
                lambda _, __, output, name=name: raw.setdefault(name, []).append(output.detach().clone())
            )
    for images, _ in data:
        model(images)
    for module in modules.values():
        module._forward_hooks.clear()
    for options, wanted in (({"after_relu": True}, expected), ({}, raw)):
        maps, images = collect(model, data, **options)
        assert images == 5
        assert len(wanted) == 20
        assert maps.keys() == wanted.keys()
        for name, values in wanted.items():
            assert [len(x) for x in maps[name]] == [3, 2]
            for got, value in zip(maps[name], values, strict=True):
                torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("functional", [False, True])
def test_passes_follow_modules_and_functions(functional):
    data = [(images.double(), labels) for images, labels in batches()]
    maps, _ = collect(residual(functional), data, after_relu=True)
    for name, values in literal_maps(residual(), data).items():
        torch.testing.assert_close(torch.cat(maps[name]), torch.stack(values))


def test_passes_read_no_more_than_asked_and_hand_on_labels():
    def forever():
        while True:
            yield torch.randn(2, 3, 8, 8), torch.tensor([4, 2])

    source, seen = forever(), []
    assert feature_maps(residual(), source, lambda name, _, labels: seen.append((name, labels.tolist())), most_batches=3) == 6
    assert Counter(name for name, _ in seen) == {name: 3 for name in POSTRELU}
    assert {tuple(labels) for _, labels in seen} == {(4, 2)}


def test_passes_leave_out_what_only_trains():
    model = build("deeplabv3", 4, 1 / 32).eval()
    with torch.inference_mode():
        maps, _ = collect(model, [(torch.randn(2, 3, 32, 32), None)], after_relu=True)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert set(convolutions) - set(maps) == {name for name in convolutions if name.startswith("auxiliary")} != set()
    assert not any(x[0].requires_grad for x in maps.values())
    scores = HRANK.score(model, [(torch.randn(2, 3, 32, 32), None)], 0)
    assert list(scores) == convolutions
    assert not scores["auxiliary.4"].any()


@pytest.mark.parametrize("method", [HRANK, FPEI, RFC], ids=lambda method: method.METHOD.label)
def test_a_layer_that_is_not_called_scores_zero(method):
    model = residual()
    model.unused = nn.Conv2d(3, 7, 1).eval()
    scores = method.score(model, batches(), 0)
    assert scores["unused"].tolist() == [0] * 7
    assert scores["unused"].dtype == torch.float32
    assert scores["stem"].any()


@pytest.mark.parametrize(("method", "expected"), [(HRANK, 5), (RFC, 50)], ids=["hrank", "rfc"])
def test_so_many_batches_are_read_by_default(method, expected):
    read = []

    def forever():
        while True:
            read.append(1)
            yield torch.randn(1, 2, 2, 2), torch.tensor([0])

    method.score(Through(2).eval(), forever(), 0)
    assert len(read) == expected


@pytest.mark.parametrize("method", [HRANK, FPEI, RFC], ids=lambda method: method.METHOD.label)
def test_refusals(method):
    with pytest.raises(FgpError, match="no image"):
        method.score(residual(), [], 0)
    with pytest.raises(FgpError, match="training mode"):
        method.score(residual().train(), batches(), 0)
    model = residual()
    model.norm1.weight.data[0] = float("nan")
    with pytest.raises(FgpError, match=r"^conv1: a feature map is NaN"):
        method.score(model, batches(), 0)


@pytest.mark.parametrize(
    ("method", "option"),
    [(HRANK, "most_batches"), (RFC, "most_batches"), (RFC, "top_images")],
    ids=["hrank", "rfc", "rfc-top"],
)
def test_options_are_text_and_checked(method, option):
    for wrong in ("many", 0, -1, "2.5", 2.5, float("nan"), "inf", None):
        with pytest.raises(FgpError, match=f"^option {option}: "):
            method.score(residual(), batches(), 0, **{option: wrong})
    by_text, by_number = (method.score(residual(), batches(), 0, **{option: value}) for value in ("1", 1))
    assert all(torch.equal(by_text[name], by_number[name]) for name in by_text)
    assert any(not torch.equal(by_text[name], values) for name, values in method.score(residual(), batches(), 0).items())


# Rank


def kinds(height, width, count=60):
    """Yield matrices (count, height, width) of all ranks, some a hair above or below the tolerance."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    normal = torch.randn(count, height, width, generator=generator)
    yield from (normal, normal.relu(), (normal - 1).relu(), torch.zeros_like(normal), torch.ones_like(normal))
    yield normal[:, :1, :1].expand(normal.shape)
    for inner in (1, min(height, width) // 2):
        yield normal[:, :, :inner] @ normal.flip(0)[:, :inner]
    yield normal * torch.logspace(0, -9, height)[:, None]
    small = 10 ** (-8 * torch.rand(count, 1, 1, generator=generator))
    yield normal[:, :1] * torch.rand(count, height, 1, generator=generator) + small * normal
    yield (normal.relu() * (normal[:, :, :1] > 0)) * (normal[:, :1] > 0)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (16, 16), (32, 32), (5, 9), (9, 5), (1, 7), (40, 70)])
def test_rank_is_matrix_rank_of_synthetic_matrices(size):
    for scale in (1, 1e-25, 1e-38, 1e-42, 1e18):
        for number, matrices in enumerate(kinds(*size)):
            matrices = matrices * scale
            assert torch.equal(matrix_ranks(matrices), torch.linalg.matrix_rank(matrices)), (scale, number)


@pytest.mark.parametrize(
    ("network", "size", "width"),
    [("vgg16", 32, 1 / 16), ("segnet", 32, 1 / 16), ("resnet50", 32, 1 / 32), ("deeplabv3", 64, 1 / 32)],
)
@pytest.mark.parametrize("trained", [False, True])
def test_rank_is_matrix_rank_of_feature_maps(network, size, width, trained):
    torch.manual_seed(0)
    model = build(network, 4, width)
    model = randomise(model).float() if trained else model.eval()
    images = torch.randn(4, 3, size, size)
    images[1, :, 5:] = 0
    images[2] = images[2].cumsum(1).cumsum(2) / size
    maps, _ = collect(model, [(images, None)], after_relu=True)
    for name, (values,) in maps.items():
        assert torch.equal(matrix_ranks(values), torch.linalg.matrix_rank(values)), name


def test_rank_in_closed_form():
    n = 6
    ladder = torch.stack([torch.diag_embed((torch.arange(n) < k).float()) for k in range(n + 1)])
    assert matrix_ranks(ladder).tolist() == list(range(n + 1))
    assert matrix_ranks(ladder.double()).tolist() == list(range(n + 1))
    assert matrix_ranks(ladder[:6].view(2, 3, n, n)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert matrix_ranks(torch.outer(torch.arange(4.0), torch.arange(7.0))[None]).tolist() == [1]
    assert matrix_ranks(torch.tensor([0.0, -2.0, 1e-30]).view(3, 1, 1)).tolist() == [0, 1, 1]
    assert matrix_ranks(torch.zeros(0, 4, 4)).shape == (0,)


def test_rank_takes_singular_values_only_in_doubt(monkeypatch):
    torch.manual_seed(0)
    matrices = torch.randn(500, 16, 16)
    matrices[:100, 3:9] = 0
    matrices[100:200, :, :7] = 0
    matrices[200:210, 5] = 2 * matrices[200:210, 4]
    doubtful, exact = [], torch.linalg.matrix_rank
    monkeypatch.setattr(torch.linalg, "matrix_rank", lambda x: doubtful.append(len(x)) or exact(x))
    assert Counter(matrix_ranks(matrices).tolist()) == {10: 100, 9: 100, 15: 10, 16: 290}
    assert 10 <= sum(doubtful) <= 12


def test_hrank_by_loops():
    model, data = residual().float(), batches()
    for options, read in (({}, data), ({"most_batches": 1}, data[:1])):
        scores = HRANK.score(model, data, 0, **options)
        maps = literal_maps(model, read)
        assert scores.keys() == maps.keys()
        for name, images in maps.items():
            for c, value in enumerate(scores[name].tolist()):
                ranks = [np.linalg.matrix_rank(image[c].numpy()) for image in images]
                assert value == pytest.approx(sum(ranks) / len(ranks), rel=1e-6)


# Entropy


def test_fpei_in_closed_form():
    side = torch.arange(16.0)
    grid = side[:, None] * 16 + side
    maps = torch.stack(
        [
            torch.zeros(16, 16),
            torch.full((16, 16), 3.7),
            -grid - 1,  # dead behind the ReLU
            (grid < 128).float(),
            (grid < 64).float(),
            (grid // 64) * 0.3 + 5,
            grid * 2**-20,
            1e4 + grid,
        ]
    )
    quarter = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)
    expected = torch.tensor([0, 0, 0, 1, quarter, 2, 8, 8])
    torch.testing.assert_close(of_images(FPEI, maps[None]), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_images(FPEI, torch.stack([maps, maps.flip(0)])), (expected + expected.flip(0)) / 2)


def test_fpei_by_loops():
    model, data = residual().float(), batches()
    scores, maps = FPEI.score(model, data, 0), literal_maps(model, data)
    for name, images in maps.items():
        for c, value in enumerate(scores[name].tolist()):
            entropies = []
            for image in images:
                pixels = image[c].numpy().ravel()
                span = pixels.max() - pixels.min()
                levels = np.floor((pixels - pixels.min()) / (span or 1) * 255)
                shares = np.histogram(levels, bins=256, range=(0, 256))[0] / pixels.size
                entropies.append(-sum(p * math.log2(p) for p in shares if p))
            assert value == pytest.approx(sum(entropies) / len(entropies), rel=1e-5, abs=1e-6)


# Label entropy


def literal_rfc(maps, labels, count):
    """Return the scores of one layer without ties, by sorting and counting."""
    scores = []
    for c in range(len(maps[0])):
        strongest = sorted(range(len(maps)), key=lambda n: -math.sqrt((maps[n][c].double() ** 2).sum()))[:count]
        shares = [votes / count for votes in Counter(labels[n] for n in strongest).values()]
        scores.append(sum(p * math.log2(p) for p in shares))
    return scores


@pytest.mark.parametrize(("options", "count"), [({}, 12), ({"top_images": "5"}, 5), ({"top_images": 20}, 12)])
def test_rfc_by_loops(options, count):
    model, data = residual().float(), batches()
    for norm in (model.norm0, model.norm1):
        norm.bias.data.abs_().add_(0.5)  # no dead maps, so no ties
    scores, maps = RFC.score(model, data, 0, **options), literal_maps(model, data)
    labels = [label for _, part in data for label in part.tolist()]
    for name, images in maps.items():
        assert scores[name].tolist() == pytest.approx(literal_rfc(images, labels, count), abs=1e-6)
        assert len(set(scores[name].tolist())) > 1


def strengths(*channels):
    """Return images (N, C, 2, 2) whose channels have the norms listed for each."""
    return torch.tensor(channels).T[:, :, None, None].expand(-1, -1, 2, 2) / 2


def test_rfc_in_closed_form():
    labels = torch.tensor([7, 7, 7, 7, 3, 3, 5, 5])
    images = strengths(
        [9.0, 8, 7, 6, 1, 2, 3, 4],  # one class
        [9.0, 8, 1, 1, 7, 6, 1, 1],  # two classes, half each
        [9.0, 1, 1, 1, 8, 2, 7, 6],  # 1, 1 and 2 of three classes
        [2.0, 2, 2, 2, 2, 2, 2, 2],  # no preference: the classes of all images
        [0.0, 0, 0, 0, 0, 0, 0, 0],  # dead
        [9.0, 8, 7, 0, 0, 0, 0, 0],  # three of one class, the fourth shared by five
        [-9.0, -8, -7, -6, 1, 2, 3, 4],  # negative responses do not pass the ReLU
    )
    fourth = -(3.2 / 4 * math.log2(3.2 / 4) + 2 * 0.4 / 4 * math.log2(0.4 / 4))
    expected = [0, 1, 1.5, 1.5, math.log2(3), fourth, 1]
    assert of_images(RFC, images, labels).tolist() == pytest.approx([-value for value in expected], abs=1e-6)


def test_rfc_of_one_image():
    images = strengths([9.0, 8, 7, 6], [1.0, 2, 3, 4])
    assert not of_images(RFC, images, torch.arange(4), top_images=1).any()
    assert not of_images(RFC, images[:1], torch.tensor([3])).any()


def test_rfc_does_not_depend_on_order_or_batches():
    torch.manual_seed(0)
    images, labels = torch.randint(-2, 3, (40, 12, 2, 2)).float(), torch.randint(4, (40,))
    order = torch.randperm(40)
    model = Through(12).eval()
    scores = RFC.score(model, [(images, labels)], 0)["conv"]
    parts = list(zip(images[order].split(7), labels[order].split(7), strict=True))
    torch.testing.assert_close(RFC.score(model, parts, 0)["conv"], scores)


def test_rfc_counts_640_images_by_default():
    count = 1500
    torch.manual_seed(0)
    norms, labels = torch.randperm(count).float() + 1, torch.randint(10, (count,))
    images = norms.view(-1, 1, 1, 1)
    assert of_images(RFC, images, labels).item() == pytest.approx(literal_rfc(images, labels.tolist(), 640)[0], abs=1e-6)


@pytest.mark.parametrize("labels", [torch.zeros(24, 8, 8).long(), torch.zeros(24), torch.zeros(23).long()])
def test_rfc_wants_a_class_an_image(labels):
    images = torch.cat([images for images, _ in batches()])
    with pytest.raises(FgpError, match="one class number an image"):
        RFC.score(residual(), [(images, labels)], 0)
