"""plan.json."""

import json

import pytest
from strategies import fuzz, json_text, outcome

from fgp.files import read_json, write_sealed
from fgp.plans import load_plan, save_plan

VALID = {
    **{"plan": {"conv1": [0, 2], "conv2": [1]}, "selection": "cumulative-0.40", "tied": False},
    "spec": {"name": "vgg16", "num_classes": 10, "width": 0.25, "task": "classification"},
    **{"macs": 50, "dense_macs": 100, "params": 40, "dense_params": 80},
    **{"kept": {"conv1": 2, "conv2": 1}, "channels": {"conv1": 4, "conv2": 8}},
    "provenance": {"command": "fgp plan", "commit": None, "versions": {"torch": "2"}},
}


def test_the_valid_file_is_read(tmp_path):
    write_sealed(tmp_path / "plan.json", VALID)
    assert load_plan(tmp_path / "plan.json").model_dump() == VALID


@fuzz(300, json_text(VALID, sealed=True))
def test_plan(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    plan = outcome(load_plan, path)
    if plan:
        for layer, kept in plan.plan.items():
            assert kept == sorted(set(kept))
            assert all(type(index) is int and index >= 0 for index in kept), layer
        save_plan(tmp_path / "again.json", **plan.model_dump())
        assert load_plan(tmp_path / "again.json") == plan
        (tmp_path / "again.json").unlink()


@fuzz(100, json_text({"a": [1, 2.5, "x", None], "b": {"c": True}}))
def test_json(tmp_path, content):
    path = tmp_path / "any.json"
    path.write_bytes(content)
    value = outcome(read_json, path)
    if value is not None:
        assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_json_holds_no_infinity(tmp_path, number):
    path = tmp_path / "any.json"
    path.write_text(f'{{"a": {number}}}')
    assert outcome(read_json, path) is None
