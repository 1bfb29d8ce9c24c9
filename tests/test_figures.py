"""Figures 3a, 3b and 4 of made-up cells."""

import math

import pandas as pd
import pytest
import yaml
from fgp_workflow import cells, figures, paper
from fgp_workflow.experiment import figure4_ways
from fgp_workflow.figures import fig3a, fig3b, fig4, style
from fgp_workflow.inputs import read_yaml
from made_up import RECIPES, experiment, row, table, task
from matplotlib.colors import to_hex
from PIL import Image

from fgp.errors import FgpError

RAW = {
    "datasets": {"digits32": {"source": "digits"}, "cifar100": {"source": "cifar100"}},
    "tasks": {
        "digits-vgg16": task("digits32", "vgg16"),
        "digits-resnet50": task("digits32", "resnet50"),
        "c100-vgg16": task("cifar100", "vgg16"),
    },
    "methods": ["fgp"],
    "figures": {
        "fig3a": {"task": "digits-vgg16", "k": [0.1, 0.3, 0.5, 0.7, 0.9]},
        "fig3b": {"task": "digits-vgg16", "classes": [10, 5, 2], "k": 0.4},
        "fig4": {"tasks": ["digits-vgg16", "digits-resnet50"], "k": 0.4, "share": 0.3, "of": 0.5},
    },
}
ASKING = experiment(**RAW)


def curve_cells():
    rows = []
    for seed in (0, 1):
        speed = {"latency_b1_images_per_second": 50.0, "latency_b128_images_per_second": 400.0}
        rows.append(row("digits-vgg16", "dense/unpruned", seed, 97.0 + seed, **speed))
        for k in (0.1, 0.3, 0.5, 0.7):
            faster = {"latency_b1_images_per_second": 60.0, "latency_b128_images_per_second": 2000 - 1500 * k + 80 * seed}
            rows.append(row("digits-vgg16", f"fgp/cumulative-{k:.2f}", seed, 98 - 6 * (1 - k) ** 3 + seed, **faster))
    return table(rows)


def sweep_cells(name="digits-vgg16", classes=(2, 5)):
    rows = []
    for count in classes:
        for seed in (0, 1):
            rows.append(row(f"{name}-c{count}", "dense/unpruned", seed, 99.0 - seed))
            rows.append(row(f"{name}-c{count}", "fgp/cumulative-0.40", seed, 99.0 - count / 10 - 2 * seed))
    return table(rows)


def retention_cells():
    rows = []
    for name, base in (("digits-vgg16", 97.0), ("digits-resnet50", 95.0)):
        for seed in (0, 1, 2):
            rows.append(row(name, "dense/unpruned", seed, base + 1 + 0.1 * seed))
            for i, selection in enumerate(figure4_ways(ASKING.config.figures.fig4)):
                rows.append(row(name, f"fgp/{selection}", seed, base - 4 * i + seed, macs_remaining_percent=10.0 + 5 * (i > 0)))
    return table(rows)


def test_fig3a_data(capsys):
    data = fig3a.prepare(curve_cells(), ASKING)
    assert list(data.accuracy.index) == list(data.speed.index) == [0.1, 0.3, 0.5, 0.7]
    assert data.accuracy.loc[0.5, "mean"] == pytest.approx(98 - 6 * 0.125 + 0.5)
    assert data.accuracy.loc[0.5, "std"] == pytest.approx(math.sqrt(0.5))
    assert data.batch == 128
    assert data.speed.loc[0.1, "mean"] == pytest.approx(1890)
    assert data.dense == (97.5, 400.0)
    assert data.holes == (0.9,)
    assert data.missing == ("digits-vgg16/fgp/cumulative-0.90",)
    assert "missing, left out: digits-vgg16/fgp/cumulative-0.90" in capsys.readouterr().err


def test_fig3a_draws_the_data():
    upper, lower = fig3a.draw(fig3a.prepare(curve_cells(), ASKING)).axes
    assert list(upper.lines[0].get_xdata()) == [0.1, 0.3, 0.5, 0.7]
    assert upper.lines[0].get_ydata()[2] == pytest.approx(97.75)
    assert list(lower.lines[0].get_ydata()) == pytest.approx([1890, 1590, 1290, 990])
    assert "n = 2 seeds" in upper.get_title()


def test_fig3a_without_latency_has_one_panel():
    made = curve_cells()
    data = fig3a.prepare(made[[name for name in made if "latency_b" not in name]], ASKING)
    assert data.batch is None
    (axis,) = fig3a.draw(data).axes
    assert "speed: not measured" in axis.get_title()


def test_fig3a_without_the_dense_network():
    made = curve_cells()
    data = fig3a.prepare(made[made["method"] == "fgp"], ASKING)
    assert all(map(pd.isna, data.dense))
    assert [axis.get_legend_handles_labels()[1] for axis in fig3a.draw(data).axes] == [["not there", "FGP"]] * 2


def test_fig3b_gaps_are_paired():
    data = fig3b.prepare(sweep_cells(), ASKING, read_yaml(paper.FILE))
    assert list(data.gaps.index) == [2, 5]
    assert data.gaps.loc[5, "mean"] == pytest.approx((0.5 + 1.5) / 2)
    assert data.gaps.loc[5, "std"] == pytest.approx(math.sqrt(0.5))
    assert data.printed == {}
    assert data.missing == ("digits-vgg16-c10/fgp/cumulative-0.40 with digits-vgg16-c10/dense/unpruned",)


def test_fig3b_shows_the_papers_gaps_on_cifar100_only():
    asking = experiment(**{**RAW, "figures": {"fig3b": {"task": "c100-vgg16", "classes": [5, 20, 100], "k": 0.4}}})
    data = fig3b.prepare(sweep_cells("c100-vgg16", (5, 20, 100)), asking, read_yaml(paper.FILE))
    assert data.printed == {5: 0.68, 100: 1.58}
    (axis,) = fig3b.draw(data).axes
    hollow = next(line for line in axis.lines if line.get_label() == "quoted by the paper")
    assert list(hollow.get_ydata()) == [0.68, 1.58]
    assert hollow.get_markerfacecolor() == "none"


def test_fig4_data_and_bars():
    data = fig4.prepare(retention_cells(), ASKING)
    assert data.ways == ("Cumul. k 0.40", "Peak 30 %", "Peak 30/50 Rand", "Rand 30 %", "Bot 30/50 Rand", "Bot 30 %")
    vgg, resnet = data.networks
    assert vgg.accuracy.loc["Peak 30 %", "mean"] == 94.0
    assert resnet.accuracy.loc["Bot 30 %", "std"] == pytest.approx(1.0)
    assert resnet.dense == pytest.approx(96.1)
    assert vgg.macs.loc["Rand 30 %", "mean"] == 15.0
    upper, lower = fig4.draw(data).axes
    heights = [[bar.get_height() for bar in bars] for bars in upper.containers if hasattr(bars, "patches")]
    assert heights == [[98 - 4 * i for i in range(6)], [96 - 4 * i for i in range(6)]]
    assert len(lower.patches) == 12
    assert "axis from 70" in upper.get_ylabel()
    assert upper.get_ylim()[0] == 70


def test_fig4_axis_starts_at_zero_when_bars_are_low():
    made = retention_cells()
    upper, _ = fig4.draw(fig4.prepare(made.assign(after_percent=made["after_percent"] / 2), ASKING)).axes
    assert upper.get_ylim()[0] == 0


@pytest.mark.parametrize(("module", "named"), [(fig3a, "cumulative-0.10"), (fig4, "digits-resnet50/fgp/peak-rand-0.30-of-0.50")])
def test_nothing_to_draw_names_the_cells(module, named):
    with pytest.raises(FgpError, match=named):
        module.prepare(table([]), ASKING)


def test_fig3b_nothing_to_draw():
    with pytest.raises(FgpError, match=r"digits-vgg16-c2/fgp/cumulative-0.40"):
        fig3b.prepare(table([]), ASKING, read_yaml(paper.FILE))


@pytest.fixture
def written(tmp_path):
    """Write a configuration and the cells of a figure; return the words that name them."""

    def write(made, figures=RAW["figures"]):
        cells.write(made, tmp_path / "cells.csv")
        raw = {"run": "made-up", "seeds": [0, 1], "recipes": RECIPES, **RAW, "figures": figures}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
        return ["--cells", str(tmp_path / "cells.csv"), "--config", str(tmp_path / "config.yaml")]

    return write


@pytest.mark.parametrize(("figure", "made"), [("3a", curve_cells), ("3b", sweep_cells), ("4", retention_cells)])
def test_command_writes_pdf_and_png_of_column_width(figure, made, written, tmp_path):
    stem = tmp_path / "out" / f"fig{figure}"
    assert figures.main(["--figure", figure, *written(made()), "--out-stem", str(stem)]) == 0
    assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    with Image.open(stem.with_suffix(".png")) as image:
        assert image.width == round(style.WIDTH * style.DPI)
        assert image.info["dpi"][0] == pytest.approx(style.DPI, abs=0.1)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert sorted(path.name for path in stem.parent.iterdir()) == [f"fig{figure}.pdf", f"fig{figure}.png"]


def test_figure_that_the_configuration_lacks(written, tmp_path, capsys):
    words = written(curve_cells(), {"fig4": RAW["figures"]["fig4"]})
    assert figures.main(["--figure", "3a", *words, "--out-stem", str(tmp_path / "fig3a")]) == 1
    assert "figures.fig3a is missing" in capsys.readouterr().err
    assert not list(tmp_path.glob("fig3a*"))


def test_text_is_at_least_seven_points_and_colours_differ():
    for figure in (fig3a.draw(fig3a.prepare(curve_cells(), ASKING)), fig4.draw(fig4.prepare(retention_cells(), ASKING))):
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
