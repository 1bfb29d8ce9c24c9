import json
import time

import pytest
import torch
from torch import nn

import fgp
from fgp import cli, latency
from fgp.errors import FgpError
from fgp.files import read_sealed
from fgp.models import build

KEYS = {"median_ms", "q1_ms", "q3_ms", "images_per_second"}


class Sleeper(nn.Module):
    """Takes a known time; notes when it ran."""

    def __init__(self, seconds, runs, name):
        super().__init__()
        self.seconds, self.runs, self.name = seconds, runs, name
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        time.sleep(self.seconds)
        self.runs += [(self.name, self.training, torch.is_inference_mode_enabled(), tuple(x.shape))]
        return self.bn(x)

    def __deepcopy__(self, memo):
        return Sleeper(self.seconds, self.runs, self.name)


def test_known_times():
    models = {"fast": Sleeper(0.004, [], "fast"), "slow": Sleeper(0.012, [], "slow")}
    result = latency.measure(models, (3, 4, 4), (1, 2), min_run_time=0.1)
    assert list(result) == ["fast", "slow"]
    for name, milliseconds in (("fast", 4), ("slow", 12)):
        assert list(result[name]) == ["1", "2"]
        for batch, values in result[name].items():
            assert set(values) == KEYS
            assert milliseconds <= values["q1_ms"] <= values["median_ms"] <= values["q3_ms"]
            assert values["q1_ms"] < 2.5 * milliseconds
            assert values["images_per_second"] == pytest.approx(int(batch) / values["median_ms"] * 1e3)
    json.dumps(result, allow_nan=False)


def test_networks_take_turns():
    runs = []
    models = {name: Sleeper(0.002, runs, name) for name in "abc"}
    latency.measure(models, (3, 4, 4), (2,), min_run_time=0.1)
    turns = [name for index, (name, *_) in enumerate(runs) if index == 0 or runs[index - 1][0] != name]
    assert "".join(turns) == "abc" * (1 + latency.rounds_in(0.1))
    assert {run[1:] for run in runs} == {(False, True, (2, 3, 4, 4))}
    assert all(model.training for model in models.values())


@pytest.mark.parametrize(("seconds", "rounds"), [(0.01, 2), (0.1, 2), (0.15, 3), (0.2, 4), (10, 5)])
def test_longer_measurements_have_more_rounds(seconds, rounds):
    assert latency.rounds_in(seconds) == rounds


def test_time_spent_is_at_least_what_was_asked():
    runs = []
    latency.measure({"a": Sleeper(0.005, runs, "a")}, (3, 4, 4), (1,), min_run_time=0.2)
    assert len(runs) * 0.005 >= 0.2


def test_a_batch_that_does_not_fit():
    with pytest.raises(FgpError, match="small fails on a batch of 2x4x32x32"):
        latency.measure({"small": build("vgg16", 10, 0.125)}, (4, 32, 32), (2,), min_run_time=0.01)


@pytest.fixture
def weights(tmp_path):
    paths = []
    for name, width in (("a", 0.0625), ("b", 0.125)):
        torch.manual_seed(0)
        paths.append(tmp_path / f"{name}.safetensors")
        fgp.save(build("vgg16", 10, width), paths[-1])
    return paths


def measured(out, *words):
    status = cli.main(["measure", *map(str, words), "--out", str(out), "--seconds", "0.02", "--device", "cpu"])
    return read_sealed(out) if status == 0 else status


def test_command(weights, tmp_path):
    one, other = weights
    out = tmp_path / "new" / "latency.json"
    words = ["--weights", f"dense/unpruned={one}", other, "--input-size", 3, 32, 32, "--batch-sizes", 1, 2, "--threads", 1]
    record = measured(out, *words)
    assert set(record) == {"latency", "input_size", "threads", "provenance"}
    assert list(record["latency"]) == ["dense/unpruned", str(other)]
    assert all(set(sizes) == {"1", "2"} and set(sizes["1"]) == KEYS for sizes in record["latency"].values())
    assert record["input_size"] == [3, 32, 32]
    assert record["threads"] == 1
    assert record["provenance"]["hardware"]["device"] == "cpu"
    assert record["provenance"]["networks"].keys() == record["latency"].keys()


def test_command_reads_the_size_from_the_data(weights, tmp_path):
    data = tmp_path / "digits.safetensors"
    assert cli.main(["data", "--source", "digits", "--out", str(data)]) == 0
    record = measured(tmp_path / "latency.json", "--weights", weights[0], "--data", data, "--batch-sizes", 1)
    assert record["input_size"] == [3, 32, 32]


def test_path_with_an_equals_sign(weights, tmp_path):
    path = tmp_path / "k=0.35" / "model.safetensors"
    path.parent.mkdir()
    weights[0].rename(path)
    words = ["--input-size", 3, 32, 32, "--batch-sizes", 1]
    assert list(measured(tmp_path / "a.json", "--weights", path, *words)["latency"]) == [str(path)]
    assert list(measured(tmp_path / "b.json", "--weights", f"x={path}", *words)["latency"]) == ["x"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--weights", "x=a.safetensors", "--weights", "x=b.safetensors", "--input-size", 3, 32, 32], "x: named twice"),
        (["--weights", "none.safetensors", "--input-size", 3, 32, 32], "none.safetensors: no such file"),
        (["--weights", "a.safetensors", "--input-size", 3, 0, 32], "--input-size 3 0 32"),
        (["--weights", "a.safetensors", "--input-size", 3, 16, 16], "16x16"),
        (["--weights", "a.safetensors", "--input-size", 3, 32, 32, "--batch-sizes", 0], "--batch-sizes 0"),
        (["--weights", "a.safetensors", "--data", "none.safetensors"], "none.safetensors"),
    ],
)
def test_command_refuses(weights, tmp_path, monkeypatch, capsys, words, match):
    monkeypatch.chdir(tmp_path)
    assert measured(tmp_path / "latency.json", *words) == 1
    assert match in capsys.readouterr().err
    assert not (tmp_path / "latency.json").exists()


def test_command_refuses_no_time(weights, tmp_path):
    words = ["--weights", str(weights[0]), "--input-size", "3", "32", "32", "--out", str(tmp_path / "a.json"), "--seconds", "0"]
    assert cli.main(["measure", *words]) == 1
