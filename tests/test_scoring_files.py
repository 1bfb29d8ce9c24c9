"""Scores files: what is written, byte for byte of meaning, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fgp import FgpError, tensorfiles
from fgp.scoring.files import load_scores, save_scores

ADVICE = "make the file again with `fgp score`"
FOREIGN = "another file of fgp, not a scores file; make one with `fgp score`"


def test_a_file_holds_float32_the_order_of_the_layers_and_the_metadata(tmp_path):
    rows = torch.arange(6.0).view(3, 2)
    scores = {
        "b": torch.tensor([1 / 3, -2.0], dtype=torch.float64, requires_grad=True),
        "c": torch.tensor([0.5], dtype=torch.bfloat16),
        "a": rows[:, 1],
        "d": rows[:, 1],
        "e": torch.tensor([65504.0], dtype=torch.float16),
    }
    save_scores(tmp_path / "new" / "s", scores, method="l1", options={"x": [1, None]})
    with safe_open(tmp_path / "new" / "s", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["fgp"])
        assert list(file.metadata()) == ["fgp"]
    about.pop("seal")
    assert about == {"method": "l1", "options": {"x": [1, None]}, "layers": ["b", "c", "a", "d", "e"], "digest": about["digest"]}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    values = {name: tensor.tolist() for name, tensor in stored.items()}
    third = torch.tensor(1 / 3).item()
    assert values == {"b": [third, -2], "c": [0.5], "a": [1, 3, 5], "d": [1, 3, 5], "e": [65504]}
    loaded, metadata = load_scores(tmp_path / "new" / "s")
    assert metadata == about
    assert list(loaded) == about["layers"]
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == values


BAD = {
    "a row": (torch.ones(1, 2), r"are torch\.float32 of shape \(1, 2\), not a vector of floats"),
    "a number": (torch.tensor(1.0), r"are torch\.float32 of shape \(\), not"),
    "nothing": (torch.ones(0), r"are torch\.float32 of shape \(0,\), not"),
    "integers": (torch.ones(2).long(), r"are torch\.int64 of shape \(2,\), not"),
    "complex": (torch.ones(2, dtype=torch.complex64), r"are torch\.complex64 of shape"),
    "nan": (torch.tensor([1.0, float("nan")]), "hold NaN or infinity"),
    "infinity": (torch.tensor([-float("inf"), 1.0]), "hold NaN or infinity"),
    "beyond float32": (torch.tensor([1.0, 1e39], dtype=torch.float64), "hold NaN or infinity"),
}


@pytest.mark.parametrize("kind", BAD)
def test_scores_that_are_no_vector_of_finite_numbers(tmp_path, kind):
    values, problem = BAD[kind]
    path = tmp_path / "s"
    with pytest.raises(FgpError, match=f"^{path}: scores of b {problem}.*; nothing was written$"):
        save_scores(path, {"a": torch.ones(2), "b": values})
    assert not list(tmp_path.iterdir())
    tensorfiles.write(path, {"a": torch.ones(2), "b": values}, {"layers": ["a", "b"]})
    with pytest.raises(FgpError, match=f"^{path}: scores of b {problem}.*; {ADVICE}$"):
        load_scores(path)


def test_nothing_to_write_and_metadata_that_are_no_json(tmp_path):
    with pytest.raises(FgpError, match=f"^{tmp_path / 's'}: no scores to write$"):
        save_scores(tmp_path / "s", {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_scores(tmp_path / "s", {"a": torch.ones(2)}, seconds=float("nan"))
    assert not list(tmp_path.iterdir())


def test_what_is_no_safetensors_file(tmp_path):
    for path, reason in ((tmp_path / "s", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(FgpError, match=f"^{path}: {reason}; make it with `fgp score`$"):
            load_scores(path)
    save_scores(path := tmp_path / "s", {"a": torch.ones(9)})
    for damaged in (b"nonsense", b"", path.read_bytes()[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(FgpError, match=f"^{path}: not a scores file of fgp, or incomplete: .*; make one with `fgp score`$"):
            load_scores(path)


@pytest.mark.parametrize("about", [None, {"layers": '["a", "b"]'}, {"fgp": "{}"}, {"fgp": "["}, {"fgp": "[]"}])
def test_safetensors_of_others(tmp_path, about):
    path = tmp_path / "s"
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, path, about)
    with pytest.raises(FgpError, match=f"^{path}: .*not a scores file of fgp.*; make one with `fgp score`$"):
        load_scores(path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"layers": "ab"}, FOREIGN),
        ({"layers": {"a": 0, "b": 0}}, FOREIGN),
        ({"layers": ["a", 1]}, FOREIGN),
        ({"layers": ["a"]}, FOREIGN),
        ({"layers": ["a", "b", "b"]}, FOREIGN),
        ({"layers": ["a", "b"], "seconds": -0.5}, f"metadata seconds: -0.5 is no time; {ADVICE}"),
        ({"layers": ["a", "b"], "seconds": "1"}, f"metadata seconds: '1' is no time; {ADVICE}"),
        ({"layers": ["a", "b"], "seconds": True}, f"metadata seconds: True is no time; {ADVICE}"),
    ],
)
def test_metadata_of_other_files(tmp_path, about, message):
    path = tmp_path / "s"
    tensorfiles.write(path, {"a": torch.ones(2), "b": torch.ones(3)}, about)
    with pytest.raises(FgpError, match=f"^{path}: {message}$"):
        load_scores(path)


def test_a_file_without_layers(tmp_path):
    tensorfiles.write(tmp_path / "s", {}, {"layers": []})
    with pytest.raises(FgpError, match=FOREIGN):
        load_scores(tmp_path / "s")


@pytest.mark.parametrize("seconds", [0, 3, 0.25, None])
def test_other_types_of_seconds_and_scores(tmp_path, seconds):
    tensorfiles.write(tmp_path / "s", {"a": torch.tensor([0.1], dtype=torch.float64)}, {"layers": ["a"], "seconds": seconds})
    scores, about = load_scores(tmp_path / "s")
    assert about["seconds"] == seconds
    assert scores["a"].dtype == torch.float32
    assert torch.equal(scores["a"], torch.tensor([0.1]))
