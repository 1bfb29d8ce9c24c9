import math

import pytest
import yaml
from fgp_workflow import collect, figures, paper
from fgp_workflow.figures import fig3a, fig3b, fig4, style
from fgp_workflow.inputs import read_yaml
from matplotlib.colors import to_hex
from PIL import Image

from fgp.errors import FgpError

CONFIG = {
    "seeds": [0, 1],
    "datasets": {"digits32": {"source": "digits"}, "cifar100": {"source": "cifar100"}},
    "tasks": {
        "digits-vgg16": {"dataset": "digits32", "network": "vgg16"},
        "digits-resnet50": {"dataset": "digits32", "network": "resnet50"},
        "c100-vgg16": {"dataset": "cifar100", "network": "vgg16"},
    },
    "figures": {
        "fig3a": {"task": "digits-vgg16", "k": [0.1, 0.3, 0.5, 0.7, 0.9]},
        "fig3b": {"task": "digits-vgg16", "classes": [10, 5, 2], "k": 0.4},
        "fig4": {"tasks": ["digits-vgg16", "digits-resnet50"], "k": 0.4, "share": 0.3, "of": 0.5},
    },
}


WHOLE = {
    **dict.fromkeys(collect.COLUMNS),
    **{"dataset": "digits32", "network": "vgg16", "width": 1.0, "metric": "top1", "epochs": 1},
    **dict.fromkeys(("macs", "params", "dense_macs", "dense_params"), 100),
}
"""A row of cells.csv with every field that may not be empty."""


def cell(task, path, seed, after, **columns):
    method, selection = path.split("/")
    row = {"task": task, "method": method, "selection": selection, "seed": seed, "after_percent": after, **columns}
    return {**WHOLE, "macs_remaining_percent": 30.0, **row}


def curve_cells():
    rows = []
    for seed in (0, 1):
        speed = {"latency_b1_images_per_second": 50.0, "latency_b128_images_per_second": 400.0}
        rows.append(cell("digits-vgg16", "dense/unpruned", seed, 97.0 + seed, **speed))
        for k in (0.1, 0.3, 0.5, 0.7):
            faster = {"latency_b1_images_per_second": 60.0, "latency_b128_images_per_second": 2000 - 1500 * k + 80 * seed}
            rows.append(cell("digits-vgg16", f"fgp/cumulative-{k:.2f}", seed, 98 - 6 * (1 - k) ** 3 + seed, **faster))
    return rows


def sweep_cells(task="digits-vgg16", classes=(2, 5)):
    rows = []
    for count in classes:
        for seed in (0, 1):
            rows.append(cell(f"{task}-c{count}", "dense/unpruned", seed, 99.0 - seed))
            rows.append(cell(f"{task}-c{count}", "fgp/cumulative-0.40", seed, 99.0 - count / 10 - 2 * seed))
    return rows


def retention_cells():
    rows = []
    for task, base in (("digits-vgg16", 97.0), ("digits-resnet50", 95.0)):
        for seed in (0, 1, 2):
            rows.append(cell(task, "dense/unpruned", seed, base + 1 + 0.1 * seed))
            for i, selection in enumerate(fig4.ways(CONFIG["figures"]["fig4"])):
                rows.append(cell(task, f"fgp/{selection}", seed, base - 4 * i + seed, macs_remaining_percent=10.0 + 5 * (i > 0)))
    return rows


def test_fig3a_data(capsys):
    data = fig3a.prepare(curve_cells(), CONFIG)
    assert list(data.accuracy) == list(data.speed) == [0.1, 0.3, 0.5, 0.7]
    assert data.accuracy[0.5].mean == pytest.approx(98 - 6 * 0.125 + 0.5)
    assert data.accuracy[0.5].sd == pytest.approx(math.sqrt(0.5))
    assert data.batch == 128
    assert data.speed[0.1].mean == pytest.approx(1890)
    assert [value.mean for value in data.dense] == [97.5, 400.0]
    assert data.missing == ("digits-vgg16/fgp/cumulative-0.90",)
    assert "missing, left out: digits-vgg16/fgp/cumulative-0.90" in capsys.readouterr().err


def test_fig3a_draws_the_data():
    upper, lower = fig3a.draw(fig3a.prepare(curve_cells(), CONFIG)).axes
    assert list(upper.lines[0].get_xdata()) == [0.1, 0.3, 0.5, 0.7]
    assert upper.lines[0].get_ydata()[2] == pytest.approx(97.75)
    assert list(lower.lines[0].get_ydata()) == pytest.approx([1890, 1590, 1290, 990])
    assert "n = 2 seeds" in upper.get_title()


def test_fig3a_without_latency_has_one_panel():
    rows = [{name: value for name, value in row.items() if "latency_b" not in name} for row in curve_cells()]
    data = fig3a.prepare(rows, CONFIG)
    assert data.batch is None
    assert len(fig3a.draw(data).axes) == 1


def test_fig3b_gaps_are_paired():
    data = fig3b.prepare(sweep_cells(), CONFIG, read_yaml(paper.FILE))
    assert list(data.gaps) == [2, 5]
    assert data.gaps[5].mean == pytest.approx((0.5 + 1.5) / 2)
    assert data.gaps[5].sd == pytest.approx(math.sqrt(0.5))
    assert data.printed == {}
    assert data.missing == ("digits-vgg16-c10/fgp/cumulative-0.40 with digits-vgg16-c10/dense/unpruned",)


def test_fig3b_shows_the_papers_gaps_on_cifar100_only():
    section = {"task": "c100-vgg16", "classes": [5, 20, 100], "k": 0.4}
    config = {**CONFIG, "figures": {"fig3b": section}}
    data = fig3b.prepare(sweep_cells("c100-vgg16", (5, 20, 100)), config, read_yaml(paper.FILE))
    assert data.printed == {5: 0.68, 100: 1.58}
    (axis,) = fig3b.draw(data).axes
    hollow = next(line for line in axis.lines if line.get_label() == "quoted by the paper")
    assert list(hollow.get_ydata()) == [0.68, 1.58]
    assert hollow.get_markerfacecolor() == "none"


def test_fig4_data_and_bars():
    data = fig4.prepare(retention_cells(), CONFIG)
    assert data.ways == ("Cumul. k 0.40", "Peak 30 %", "Peak 30/50 Rand", "Rand 30 %", "Bot 30/50 Rand", "Bot 30 %")
    vgg, resnet = data.networks
    assert vgg.accuracy["Peak 30 %"].mean == 94.0
    assert resnet.accuracy["Bot 30 %"].sd == pytest.approx(1.0)
    assert resnet.dense.mean == pytest.approx(96.1)
    assert vgg.macs["Rand 30 %"].mean == 15.0
    upper, lower = fig4.draw(data).axes
    heights = [[bar.get_height() for bar in bars] for bars in upper.containers if hasattr(bars, "patches")]
    assert heights == [[98 - 4 * i for i in range(6)], [96 - 4 * i for i in range(6)]]
    assert len(lower.patches) == 12
    assert "axis from 70" in upper.get_ylabel()
    assert upper.get_ylim()[0] == 70


def test_fig4_axis_starts_at_zero_when_bars_are_low():
    rows = [{**row, "after_percent": row["after_percent"] / 2} for row in retention_cells()]
    upper, _ = fig4.draw(fig4.prepare(rows, CONFIG)).axes
    assert upper.get_ylim()[0] == 0


@pytest.mark.parametrize(("module", "named"), [(fig3a, "cumulative-0.10"), (fig4, "digits-resnet50/fgp/peak-rand-0.30-of-0.50")])
def test_nothing_to_draw_names_the_cells(module, named):
    with pytest.raises(FgpError, match=named):
        module.prepare([], CONFIG)


def test_fig3b_nothing_to_draw():
    with pytest.raises(FgpError, match=r"digits-vgg16-c2/fgp/cumulative-0.40"):
        fig3b.prepare([], CONFIG, read_yaml(paper.FILE))


@pytest.mark.parametrize("figure", ["3a", "3b", "4"])
def test_command_writes_pdf_and_png_of_column_width(figure, tmp_path, monkeypatch):
    rows = {"3a": curve_cells, "3b": sweep_cells, "4": retention_cells}[figure]()
    collect.write(rows, tmp_path / "cells.csv")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.setattr("fgp_workflow.inputs.read_config", read_yaml)
    stem = tmp_path / "out" / f"fig{figure}"
    words = ["--figure", figure, "--cells", str(tmp_path / "cells.csv"), "--config", str(tmp_path / "config.yaml")]
    assert figures.main([*words, "--out-stem", str(stem)]) == 0
    assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    with Image.open(stem.with_suffix(".png")) as image:
        assert image.width == round(style.WIDTH * style.DPI)
        assert image.info["dpi"][0] == pytest.approx(style.DPI, abs=0.1)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert sorted(path.name for path in stem.parent.iterdir()) == [f"fig{figure}.pdf", f"fig{figure}.png"]


def test_figure_that_the_configuration_lacks(tmp_path, monkeypatch, capsys):
    collect.write(curve_cells(), tmp_path / "cells.csv")
    (tmp_path / "config.yaml").write_text("figures: {fig3a: null}")
    monkeypatch.setattr("fgp_workflow.inputs.read_config", read_yaml)
    words = ["--figure", "3a", "--cells", str(tmp_path / "cells.csv"), "--config", str(tmp_path / "config.yaml")]
    assert figures.main([*words, "--out-stem", str(tmp_path / "fig3a")]) == 1
    assert "figures.fig3a is missing" in capsys.readouterr().err
    assert not list(tmp_path.glob("fig3a*"))


def test_text_is_at_least_seven_points_and_colours_differ():
    for figure in (fig3a.draw(fig3a.prepare(curve_cells(), CONFIG)), fig4.draw(fig4.prepare(retention_cells(), CONFIG))):
        figure.canvas.draw()
        texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")) if text.get_text()]
        assert texts
        assert min(text.get_fontsize() for text in texts) >= 7
    colours = [to_hex(colour) for colour, _, _ in style.SERIES]
    assert len(set(colours)) == len({marker for _, marker, _ in style.SERIES}) == len(style.SERIES)


@pytest.mark.parametrize(
    ("counts", "text"), [({1}, "1 seed"), ({3}, "mean ± sd, n = 3 seeds"), ({1, 3}, "mean ± sd, n = 1 to 3 seeds")]
)
def test_seeds(counts, text):
    assert style.seeds(counts) == text


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
