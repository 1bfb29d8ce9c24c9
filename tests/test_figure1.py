"""Figure 1: heat maps of channels."""

import pytest
from fgp_workflow import figures
from fgp_workflow.figures import style
from matplotlib.colors import to_hex
from PIL import Image

from fgp.errors import FgpError


@pytest.fixture(scope="module")
def model():
    """A narrow network with random weights, for Figure 1."""
    torch = pytest.importorskip("torch")
    from fgp import models

    torch.manual_seed(0)
    return models.build("vgg16", 4, width=0.125).eval()


@pytest.fixture(scope="module")
def dataset():
    import torch

    from fgp.data.dataset import Dataset, Split

    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.tensor([2, 0, 0, 1, 2, 1, 3, 3], dtype=torch.uint8))
    facts = {"classes": ("a", "b", "c", "d"), "outputs": 4, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Dataset(split, split, **facts, task="classification", void=255, source="test")


@pytest.fixture(scope="module")
def scores(model):
    import torch

    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    return {name: torch.arange(1.0, 1 + module.out_channels) for name, module in convolutions.items()}


@pytest.fixture(scope="module")
def plan(scores):
    return {name: list(range(len(values) // 2, len(values))) for name, values in scores.items()}


def test_maps_are_those_of_the_library(model, dataset, plan, scores):
    import torch
    from fgp_workflow.figures import fig1

    from fgp.scoring import heatmaps

    data = fig1.prepare(dataset, model, plan, scores, classes=3, channels=5)
    names = list(plan)
    assert data.layer == names[6]
    assert [(row.index, row.kept) for row in data.channels] == [(31, True), (30, True), (29, True), (1, False), (0, False)]
    assert data.channels[0].share == pytest.approx(100 * 32 / (32 * 33 / 2))
    assert data.titles == ("a", "b", "c")
    images = dataset.train.images[[1, 3, 0]]
    assert (data.images == images.permute(0, 2, 3, 1).numpy()).all()
    normalised = (images / 255 - 0.5) / 0.25
    expected = heatmaps(model, normalised, torch.tensor([0, 1, 2]), data.layer)
    assert data.maps.shape == (5, 3, 8, 8)
    for i, row in enumerate(data.channels):
        for d in range(3):
            assert data.maps[i, d] == pytest.approx(expected[d, row.index, d].numpy(), rel=1e-4, abs=1e-7)


def test_drawing_marks_kept_and_removed(model, dataset, plan, scores, tmp_path):
    from fgp_workflow.figures import fig1

    figure = fig1.draw(fig1.prepare(dataset, model, plan, scores, 3, 4))
    assert len(figure.axes) == 5 * 3
    assert [axis.get_ylabel().split()[2] for axis in figure.axes[3::3]] == ["kept,", "kept,", "removed,", "removed,"]
    colours = [to_hex(axis.spines["left"].get_edgecolor()).upper() for axis in figure.axes[3::3]]
    assert colours == [style.GREEN] * 2 + [style.VERMILION] * 2
    style.save(figure, tmp_path / "fig1")
    with Image.open(tmp_path / "fig1.png") as image:
        assert image.width == round(style.WIDTH * style.DPI)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 5}, "--classes 5"),
        ({"channels": 1}, "--channels 1"),
        ({"channels": 1000}, "no layer of the plan"),
        ({"layer": "nowhere"}, "--layer nowhere"),
    ],
)
def test_impossible_requests(model, dataset, plan, scores, changes, message):
    from fgp_workflow.figures import fig1

    with pytest.raises(FgpError, match=message):
        fig1.prepare(dataset, model, plan, scores, **{"classes": 3, "channels": 4, **changes})


def test_class_without_an_image(model, dataset, plan, scores):
    import dataclasses

    from fgp_workflow.figures import fig1

    from fgp.data.dataset import Split

    lacking = Split(dataset.train.images, dataset.train.labels * 0)
    with pytest.raises(FgpError, match=r"no training image of class 1 \(b\)"):
        fig1.prepare(dataclasses.replace(dataset, train=lacking), model, plan, scores, 3, 4)


def test_segmentation_takes_the_image_with_most_pixels():
    import torch
    from fgp_workflow.figures import fig1

    from fgp.data.dataset import Split

    labels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    labels[1, 0, :2] = 1
    labels[2, :2] = 1
    split = Split(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), labels)
    assert fig1._example(split, 1, "b") == 2
    with pytest.raises(FgpError, match="class 7"):
        fig1._example(split, 7, "z")


def test_heat_maps_from_files(tmp_path, model, plan, scores):
    import fgp
    from fgp import data, plans
    from fgp.scoring.files import save_scores

    data.prepare("digits", tmp_path / "data.safetensors", size=32, classes=4, train_limit=40, test_limit=8)
    fgp.save(model, tmp_path / "dense.safetensors")
    save_scores(tmp_path / "scores.safetensors", scores, method="fgp")
    counts = {"macs": 1, "dense_macs": 2, "params": 1, "dense_params": 2, "kept": {}, "channels": {}}
    facts = {"selection": "cumulative-0.50", "spec": None, "tied": False, "provenance": {}}
    plans.save_plan(tmp_path / "plan.json", plan=plan, **counts, **facts)
    words = [word for name in ("data", "scores") for word in (f"--{name}", str(tmp_path / f"{name}.safetensors"))]
    words += ["--weights", str(tmp_path / "dense.safetensors"), "--plan", str(tmp_path / "plan.json"), "--figure", "1"]
    assert figures.main([*words, "--classes", "3", "--channels", "4", "--out-stem", str(tmp_path / "fig1")]) == 0
    assert (tmp_path / "fig1.pdf").read_bytes().startswith(b"%PDF-")
    assert (tmp_path / "fig1.png").stat().st_size > 1000
