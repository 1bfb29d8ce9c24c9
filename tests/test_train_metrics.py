import json

import pytest

from fgp.errors import FgpError
from fgp.files import seal, write_sealed
from fgp.metrics import read_metrics, write_metrics

PROVENANCE = {
    "command": "fgp train",
    "recipe": {"epochs": 1},
    "key": None,
    "digest": "d",
    "commit": None,
    "dirty": None,
    "versions": {"torch": "2", "smp": None},
    "hardware": {"cpu": "x", "cores": 2},
    "threads": 1,
    "finished": "2025-01-01T00:00:00+00:00",
}
VALUES = {
    "task": "toy",
    "dataset": "digits",
    "network": "vgg16",
    "width": 0.25,
    "seed": 0,
    "method": "fgp",
    "selection": "macs-0.5",
    "metric": "top1",
    "before": 12.5,
    "after": 97.5,
    "macs": 50,
    "params": 40,
    "dense_macs": 100,
    "dense_params": 80,
    "kept": {"conv1": 2, "conv2": 8},
    "channels": {"conv1": 4, "conv2": 8},
    "score_seconds": 0.5,
    "train_seconds": 3.0,
    "epochs": 1,
    "provenance": PROVENANCE,
}


def test_round_trip(tmp_path):
    values = {**VALUES, "budget": "half"}
    write_metrics(tmp_path / "metrics.json", **values)
    assert read_metrics(tmp_path / "metrics.json") == values
    assert json.loads((tmp_path / "metrics.json").read_text()) == seal(values)


def test_null_is_allowed_where_there_is_nothing_to_say(tmp_path):
    write_metrics(tmp_path / "metrics.json", **{**VALUES, "before": None, "score_seconds": None})
    assert read_metrics(tmp_path / "metrics.json")["before"] is None


WRONG = [
    ({"after": None}, "after"),
    ({"after": 101.0}, "after"),
    ({"after": float("nan")}, "after"),
    ({"before": "12"}, "before"),
    ({"metric": "top5"}, "metric"),
    ({"macs": 0}, "macs"),
    ({"seed": 1.5}, "seed"),
    ({"kept": {"conv1": 5, "conv2": 8}}, "conv1 keeps 5 of 4"),
    ({"kept": {"conv1": 2}}, "kept"),
    ({"extra": 3}, "extra"),
    ({"provenance": PROVENANCE | {"digest": None}}, "provenance.digest"),
    ({"provenance": PROVENANCE | {"key": 3}}, "provenance.key"),
    *(({"provenance": {k: PROVENANCE[k] for k in PROVENANCE if k != key}}, f"provenance.{key}: missing") for key in PROVENANCE),
]


@pytest.mark.parametrize(("change", "key"), WRONG)
def test_a_wrong_value_names_file_and_key(tmp_path, change, key):
    path = tmp_path / "metrics.json"
    with pytest.raises(FgpError, match=f"metrics.json: .*{key}"):
        write_metrics(path, **{**VALUES, **change})
    assert not path.exists()
    try:
        write_sealed(path, {**VALUES, **change})
    except ValueError:  # NaN
        path.write_text(json.dumps({**VALUES, **change, "seal": "0"}))
    with pytest.raises(FgpError, match=f"metrics.json: .*{key}"):
        read_metrics(path)


def test_a_missing_key_is_named(tmp_path):
    for key in VALUES:
        values = {name: value for name, value in VALUES.items() if name != key}
        with pytest.raises(FgpError, match=f"{key}: missing"):
            write_metrics(tmp_path / "metrics.json", **values)


def test_a_file_that_is_no_metrics_file(tmp_path):
    with pytest.raises(FgpError, match="nothing"):
        read_metrics(tmp_path / "nothing.json")
