import csv
import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import baselines
from benchmarks import __main__ as command_line
from benchmarks import criteria, harness
from fgp import FgpError
from fgp.methods import Method

METHODS = ("l1", "taylor", "gt")
TINY = ["--width", "0.0625", "--images", "20", "--batch-size", "8", "--train-images", "10", "--repeats", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Rows of the CSV of a run on tiny networks."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "criteria.csv"
    assert command_line.main(["criteria", *TINY, "--data", "digits", "--methods", *METHODS, "--out", str(out)]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def test_columns_and_rows(result):
    assert [(row["network"], row["method"]) for row in result] == [
        (network, method) for network in ("vgg16", "resnet50") for method in METHODS
    ]
    for row in result:
        assert (row["images"], row["batch_size"], row["data"], row["train_images"]) == ("20", "8", "digits", "10")
        assert (row["threads"], row["device"], row["torch"]) == ("1", row["device"], torch.__version__.split("+")[0])
        assert all(row[column] for column in ("label", "kind", "cpu", "date", "note", "q1", "q3", "repeats", "width"))
        assert set(criteria.PRINTED) <= set(row)


def test_a_method_is_compared_with_a_forward_over_what_it_reads(result):
    read = {row["method"]: (row["images_read"], row["forward_images"]) for row in result}
    assert read == {"l1": ("0", "20"), "taylor": ("20", "20"), "gt": ("8", "8")}


def test_ratio_and_target(result):
    assert [row["target"] for row in result] == ["1.0", "2.6", ""] * 2
    for row in result:
        assert float(row["ratio"]) == pytest.approx(float(row["seconds"]) / float(row["forward_seconds"]), rel=2e-3)
        met = row["target"] and ("yes" if float(row["ratio"]) <= float(row["target"]) else "no")
        assert row["within"] == met


def test_target_of_one_network_only():
    facts = Method(label="HRank", needs=frozenset({"forward"}))
    assert criteria.target("hrank", "vgg16", facts)[0] == 3
    most, why = criteria.target("hrank", "resnet50", facts)
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
    timings = criteria.measure(Noted(events), batches, methods, repeats=2)
    warm_up, turn = ["forward 3", "forward 2", "first", "second"], ["forward 3", "first", "forward 3", "forward 2", "second"]
    assert events == warm_up + turn + turn
    assert [(timing.images_read, harness.image_count(timing.compared)) for timing in timings.values()] == [(3, 3), (3, 5)]


def test_median_of_ratios_not_ratio_of_medians():
    figures = harness.summary([1.0, 20.0, 3.0], against=[1.0, 2.0, 10.0])
    assert figures == {"seconds": "3", "q1": "2", "q3": "11.5", "ratio": "1"}


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [(2.3, 2.3, False, "yes"), (2.4, 2.3, False, "no"), (39, 40, True, "no"), (1, None, False, None)],
)
def test_within(value, target, at_least, met):
    assert harness.within(value, target, at_least=at_least) == {"target": target, "within": met}


def test_alternatives_run_once_ahead_then_in_turn():
    calls = []
    alternatives = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = harness.in_turn(alternatives, 2, torch.device("cpu"))
    assert calls == list("ababab")
    assert [len(rounds) for rounds in seconds.values()] == [2, 2]


def test_peak_is_what_was_allocated_at_once():
    def work():
        first = torch.zeros(2, 1_000_000)
        del first
        return torch.zeros(1_000_000)

    kept = torch.zeros(10)
    result, peak = harness.peak(torch.device("cpu"), work)
    assert len(result) == 1_000_000
    assert peak == pytest.approx(8)
    assert harness.peak(torch.device("cpu"), lambda: kept)[1] == 0


def test_a_refusal_is_a_row_and_the_others_go_on():
    events = []
    methods = {"choosy": fake(events, "choosy", error=FgpError("no such layer")), "easy": fake(events, "easy")}
    batches = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))]
    timings = criteria.measure(Noted(events), batches, methods, repeats=3)
    assert (events.count("choosy"), events.count("easy")) == (1, 4)
    rows = [criteria.row(name, "vgg16", methods[name].METHOD, timings[name]) for name in methods]
    assert rows[0]["note"] == "refused: no such layer"
    assert rows[0]["ratio"] is None
    assert rows[1]["note"] == "no target stated"


def test_every_method_that_scores_is_found():
    found = criteria.scoring_methods(None)
    assert {"fgp", "l1", "slimming"} <= set(found)
    assert not {"dcfp", "cap", "scratch-e"} & set(found)


def test_options_are_those_of_the_methods():
    found = baselines.discover()
    for name, options in criteria.OPTIONS.items():
        assert set(options) <= set(inspect.signature(found[name].score).parameters)
    assert {name.partition("/")[0] for name in criteria.TARGETS} <= set(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "l3"], "method 'l3': no such file"),
        (["--methods", "l1", "scratch-e"], "--methods scratch-e: does not score"),
        (["--methods", "l1", "--data", "digits", "--images", "3"], "limit 3: fewer than the 10 classes"),
    ],
)
def test_wrong_arguments(words, message, tmp_path, capsys):
    out = tmp_path / "criteria.csv"
    assert command_line.main(["criteria", *TINY, *words, "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_table(capsys):
    assert harness.table([{"a": 1, "b": None}, {"a": "x"}], ["a", "b"]) == "| a | b |\n| --- | --- |\n| 1 |  |\n| x |  |"


def test_results_are_named_after_the_hardware():
    name = harness.results_file("criteria", torch.device("cpu")).name
    assert name.startswith("criteria-")
    assert name.endswith(f"-{torch.get_num_threads()}-threads.csv")
    assert name == name.lower()
