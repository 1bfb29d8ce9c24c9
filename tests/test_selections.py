"""The grammar of selection names."""

import subprocess
import sys

import pytest
import torch

import fgp.models
from fgp import select, selections
from fgp.errors import FgpError
from fgp.surgery import Structure


def test_every_listed_name_is_legal():
    for name in selections.NAMES:
        assert selections.parse(name).name == name


def test_parts_of_a_name():
    parsed = selections.parse("peak-rand-0.30-of-0.50-pool")
    assert (parsed.kind, parsed.value, parsed.of, parsed.base, parsed.multiple) == ("peak-rand", 0.3, 0.5, "pool", 1)
    assert selections.parse("macs-74160000").value == 74160000
    rounded = selections.parse("macs-0.2655-x16")
    assert (rounded.name, rounded.kind, rounded.value, rounded.multiple) == ("macs-0.2655-x16", "macs", 0.2655, 16)
    assert selections.parse("bottom-rand-0.30-of-0.50-pool-x4").base == "pool"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cummulative-0.40", "legal forms are like cumulative-0.40"),
        ("cumulative-.4", "legal forms"),
        ("cumulative", "legal forms"),
        ("peak-rand-0.30", "peak-rand-0.30-of-0.50"),
        ("", "legal forms"),
        ("count-0.40 ", "legal forms"),
        ("cumulative-0", "out of range"),
        ("count-1.5", "out of range"),
        ("macs-0", "above 0"),
        ("peak-rand-0.60-of-0.50", "do not fit"),
        ("peak-rand-0.30-of-0", "out of range"),
        ("count-0.40-x1", "at least 2; leave -x1 out"),
        ("count-0.40-x0", "at least 2"),
        ("count-0.40-x08", "legal forms"),
        ("count-0.40-x8.5", "legal forms"),
        ("count-0.40-x8-x8", "legal forms"),
        ("count-0.40-8", "legal forms"),
        ("peak-rand-0.30-of-0.50-x8-pool", "peak-rand-0.30-of-0.50-pool-x8"),
        ("count-1.5-x8", "out of range"),
    ],
)
def test_illegal_names(name, message):
    with pytest.raises(FgpError, match=message):
        selections.parse(name)


def test_names_mean_the_rules():
    model, x = fgp.models.build("resnet50", 10, 0.125), torch.empty(1, 3, 32, 32, device="meta")
    scores = {name: torch.rand(m.out_channels) for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    structure = Structure(model, x)
    gathered = structure.gather(scores)
    expected = {
        "cumulative-0.40": select.cumulative(gathered, 0.4),
        "count-0.40": select.count(gathered, 0.4),
        "global-0.40": select.global_threshold(gathered, 0.4),
        "macs-0.6": select.match_macs(scores, model, x, 0.6, "count"),
        "peak-0.30": select.peak(gathered, 0.3),
        "bottom-0.30": select.bottom(gathered, 0.3),
        "rand-0.30": select.rand(gathered, 0.3, 7),
        "peak-rand-0.30-of-0.50": select.peak_rand(gathered, 0.3, 0.5, 7),
        "bottom-rand-0.30-of-0.50": select.bottom_rand(gathered, 0.3, 0.5, 7),
        "peak-rand-0.30-of-0.50-pool": select.peak_rand(gathered, 0.3, 0.5, 7, "pool"),
        "cumulative-0.40-x3": select.cumulative(gathered, 0.4, 3),
        "macs-0.6-x2": select.match_macs(scores, model, x, 0.6, "count", multiple=2),
        "rand-0.30-x3": select.rand(gathered, 0.3, 7, 3),
        "bottom-rand-0.30-of-0.50-x3": select.bottom_rand(gathered, 0.3, 0.5, 7, multiple=3),
    }
    for name, plan in expected.items():
        assert select.choose(select.parse(name), scores, structure, seed=7, rule="count") == plan, name


def test_names_do_not_load_torch():
    code = "import sys, fgp.selections, fgp.plans, fgp.cli.plan, fgp.cli.prune; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
