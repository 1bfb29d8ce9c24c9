"""Scores files."""

import pytest
import torch
from hypothesis import strategies as st
from strategies import fuzz, outcome, safetensors_file

from fgp import tensorfiles
from fgp.scoring.files import load_scores, save_scores

SPEC = {"name": "vgg16", "num_classes": 3, "width": 0.0625, "task": "classification"}


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.safetensors"
    about = {"method": "l1", "options": {}, "seconds": 0.5, "images": 3, "seed": 0, "spec": SPEC, "provenance": {"commit": None}}
    save_scores(path, {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3.0])}, **about)
    return path.read_bytes()


@fuzz(300, st.data())
def test_scores(tmp_path, scores, data):
    path = tmp_path / "scores.safetensors"
    path.write_bytes(data.draw(safetensors_file(scores)))
    check(outcome(load_scores, path), tmp_path)


@fuzz(
    100,
    st.lists(st.sampled_from(["a", "b", "c", "1", "é"]), max_size=3),
    st.lists(st.sampled_from(["a", "b", 1, None, [], "é"])),
    st.data(),
)
def test_layers_and_types(tmp_path, names, layers, data):
    path, tensors = tmp_path / "scores.safetensors", {}
    for name in names:
        dtype = getattr(
            torch, data.draw(st.sampled_from(["float64", "float16", "bfloat16", "float8_e5m2", "int64", "bool", "complex64"]))
        )
        tensors[name] = torch.zeros(data.draw(st.sampled_from([(), (0,), (1,), (2,), (2, 2)])), dtype=dtype)
    tensorfiles.write(path, tensors, {"layers": data.draw(st.sampled_from([layers, names, sorted(set(names))]))})
    check(outcome(load_scores, path), tmp_path)


def check(loaded, folder):
    if loaded is None:
        return
    scores, about = loaded
    assert scores
    assert all(values.dtype == torch.float32 and values.ndim == 1 and values.isfinite().all() for values in scores.values())
    seconds = about.get("seconds")
    assert seconds is None or seconds >= 0
    save_scores(folder / "again", scores, **{key: value for key, value in about.items() if key != "layers"})
    again, metadata = load_scores(folder / "again")
    assert metadata | {"digest": None} == about | {"digest": None}
    assert list(again) == list(scores)
    (folder / "again").unlink()
