import contextlib
import csv
import importlib.util
import inspect
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import baselines
from fgp import FgpError
from fgp.methods import Method

FILE = Path(__file__).parents[1] / "benchmarks" / "scoring.py"
_spec = importlib.util.spec_from_file_location("benchmark_of_scoring", FILE)
scoring = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scoring)

METHODS = ("l1", "taylor", "gt")
TINY = ["--width", "0.0625", "--images", "20", "--batch-size", "8", "--train-images", "10", "--repeats", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Rows of the CSV and what was printed, of a run on tiny networks."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "scoring.csv"
    words = ["--data", "digits", "--methods", *METHODS, "--out", str(out)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = scoring.main([*TINY, *words])
    assert status == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file)), printed.getvalue()


def test_columns_and_rows(result):
    rows, printed = result
    assert [(row["network"], row["method"]) for row in rows] == [
        (network, method) for network in ("vgg16", "resnet50") for method in METHODS
    ]
    for row in rows:
        assert tuple(row) == scoring.COLUMNS
        assert (row["images"], row["batch_size"], row["data"], row["train_images"]) == ("20", "8", "digits", "10")
        assert (row["threads"], row["device"], row["torch"]) == ("1", row["device"], torch.__version__.split("+")[0])
        assert row["cpu"]
        assert row["date"]
        assert row["note"]
    lines = printed.splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == len(scoring.PRINTED) + 1 for line in lines)


def test_a_method_is_compared_with_a_forward_over_what_it_reads(result):
    read = {row["method"]: (row["images_read"], row["forward_images"]) for row in result[0]}
    assert read == {"l1": ("0", "20"), "taylor": ("20", "20"), "gt": ("8", "8")}


def test_ratio_and_target(result):
    assert [row["target"] for row in result[0]] == ["1.0", "2.6", ""] * 2
    for row in result[0]:
        assert float(row["ratio"]) == pytest.approx(float(row["seconds"]) / float(row["forward_seconds"]), rel=2e-3)
        met = row["target"] and ("yes" if float(row["ratio"]) <= float(row["target"]) else "no")
        assert row["within"] == met


def test_target_of_one_network_only():
    facts = Method(label="HRank", needs=frozenset({"forward"}))
    assert scoring.target("hrank", "vgg16", facts)[0] == 3
    most, why = scoring.target("hrank", "resnet50", facts)
    assert most is None
    assert "VGG-16" in why


class Noted(nn.Module):
    """Notes when it runs."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def forward(self, images):
        assert not torch.is_grad_enabled()
        self.events.append(f"forward {len(images)}")


def fake(events, name, needs=("forward",), error=None):
    def score(model, batches, seed):
        next(iter(batches))
        events.append(name)
        if error:
            raise error

    return SimpleNamespace(METHOD=Method(label=name, needs=frozenset(needs)), score=score)


def test_forward_and_methods_take_turns():
    events = []
    batches = [(torch.zeros(size, 3, 4, 4), torch.zeros(size, dtype=torch.int64)) for size in (3, 2)]
    methods = {"first": fake(events, "first"), "second": fake(events, "second", needs=("weights",))}
    timings = scoring.measure(Noted(events), batches, methods, repeats=2)
    warm_up, turn = ["forward 3", "forward 2", "first", "second"], ["forward 3", "first", "forward 3", "forward 2", "second"]
    assert events == warm_up + turn + turn
    assert [(timing.images_read, scoring.count_images(timing.compared)) for timing in timings.values()] == [(3, 3), (3, 5)]


def test_median_of_ratios_not_ratio_of_medians():
    timing = scoring.Timing(1, [], None, seconds=[1.0, 20.0, 3.0], forward=[1.0, 2.0, 10.0])
    assert timing.figures() == {"seconds": 3.0, "q1": 2.0, "q3": 11.5, "forward_seconds": 2.0, "ratio": 1.0}


def test_a_refusal_is_a_row_and_the_others_go_on():
    events = []
    methods = {"choosy": fake(events, "choosy", error=FgpError("no such layer")), "easy": fake(events, "easy")}
    batches = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))]
    timings = scoring.measure(Noted(events), batches, methods, repeats=3)
    assert (events.count("choosy"), events.count("easy")) == (1, 4)
    rows = [scoring.row(name, "vgg16", methods[name].METHOD, timings[name]) for name in methods]
    assert rows[0]["note"] == "refused: no such layer"
    assert "ratio" not in rows[0]
    assert rows[1]["note"] == "no target stated"


def test_every_method_that_scores_is_found():
    found = scoring.scoring_methods(None)
    assert {"fgp", "l1", "slimming"} <= set(found)
    assert not {"dcfp", "cap", "scratch-e"} & set(found)


def test_options_are_those_of_the_methods():
    found = baselines.discover()
    for name, options in scoring.OPTIONS.items():
        assert set(options) <= set(inspect.signature(found[name].score).parameters)
    assert {name.partition("/")[0] for name in scoring.TARGETS} <= set(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "l3"], "method 'l3': no such file"),
        (["--methods", "l1", "scratch-e"], "--methods scratch-e: does not score"),
        (["--methods", "l1", "--data", "digits", "--images", "3"], "limit 3: fewer than the 10 classes"),
    ],
)
def test_wrong_arguments(words, message, tmp_path, capsys):
    out = tmp_path / "scoring.csv"
    assert scoring.main([*TINY, *words, "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_slug():
    assert scoring.slug({"cpu": "AMD EPYC (2.5 GHz)"}) == "amd-epyc-2-5-ghz"
    assert scoring.slug({"cpu": "AMD EPYC", "gpu": "NVIDIA H200"}) == "nvidia-h200"
