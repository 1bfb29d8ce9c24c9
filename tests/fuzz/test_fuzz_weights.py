"""Weights files."""

import json

import pytest
import torch
from hypothesis import strategies as st
from strategies import fuzz, outcome, safetensors_file

import fgp
from fgp import tensorfiles
from fgp.checkpoint import read_metadata
from fgp.models import build

DTYPES = ("float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e4m3fn")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    fgp.save(build("vgg16", 3, 1 / 64), path, plan={"features.0": [0]}, selection="macs-0.5", provenance={"commit": None})
    return path


@fuzz(200, st.data())
def test_metadata(tmp_path, weights, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data.draw(safetensors_file(weights.read_bytes())))
    metadata = outcome(read_metadata, path)
    if metadata:
        assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata


@fuzz(200, st.data())
def test_weights(tmp_path, weights, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data.draw(safetensors_file(weights.read_bytes())))
    check(outcome(fgp.load, path), tmp_path)


@fuzz(60, st.data())
def test_exchanged_tensors(tmp_path, weights, data):
    tensors = fgp.load(weights).state_dict()
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3)):
        shape = data.draw(st.sampled_from([tuple(tensors[name].shape), (), (0,), (1,), (2, 1), (3, 1, 1, 1)]))
        tensors[name] = torch.zeros(shape, dtype=getattr(torch, data.draw(st.sampled_from(DTYPES))))
    path = tmp_path / "model.safetensors"
    tensorfiles.write(path, tensors, read_metadata(weights))
    check(outcome(fgp.load, path), tmp_path)


def check(model, folder):
    if model is None:
        return
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    with torch.no_grad():
        images = torch.zeros(1, 3, 32, 32, dtype=next(model.parameters()).dtype)
        count, outputs = model.eval()(images).shape
    assert count == 1
    assert 1 <= outputs <= model.fgp_spec.num_classes, "outputs that the spec has beyond the tensors count as pruned"
    fgp.save(model, folder / "again")
    assert fgp.load(folder / "again").fgp_plan == model.fgp_plan
    (folder / "again").unlink()
