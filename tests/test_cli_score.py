import json

import pytest
import torch
from safetensors.torch import save_file
from scoring_networks import classification, residual

import fgp
from fgp import FgpError, data, models, tensorfiles
from fgp.cli import main
from fgp.scoring.files import load_scores, save_scores


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Prepared digits and a narrow VGG-16."""
    folder = tmp_path_factory.mktemp("score")
    data.prepare("digits", folder / "digits.safetensors", train_limit=60, test_limit=10)
    torch.manual_seed(0)
    fgp.save(models.build("vgg16", 10, 1 / 16), folder / "model.safetensors")
    return folder


def run(files, out, *words, method="fgp", weights="model.safetensors"):
    given = ["--data", files / "digits.safetensors", "--weights", files / weights, "--method", method, "--out", out]
    return main(["score", *map(str, [*given, "--seed", 0, "--device", "cpu", "--threads", 1, "--batch-size", 16, *words])])


def test_scores_are_those_of_the_library(files, tmp_path):
    assert run(files, tmp_path / "s.safetensors", "--option", "form=abs") == 0
    scores, metadata = load_scores(tmp_path / "s.safetensors")
    dataset = data.load(files / "digits.safetensors")
    model = fgp.load(files / "model.safetensors").eval()
    expected = fgp.score(model, data.batches(dataset.train, dataset, 60), form="abs")
    assert list(scores) == list(expected)
    for name, values in scores.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-6)
    assert metadata["method"] == "fgp"
    assert metadata["options"] == {"form": "abs"}
    assert metadata["images"] == len(dataset.train) == 60
    assert metadata["spec"]["name"] == "vgg16"
    assert metadata["seconds"] > 0
    assert metadata["provenance"]["hardware"]["device"] == "cpu"


@pytest.mark.parametrize("method", ["l1", "fpgm", "slimming", "random"])
def test_every_criterion_runs(files, tmp_path, method):
    assert run(files, tmp_path / "s.safetensors", "--images", 20, method=method) == 0
    scores, metadata = load_scores(tmp_path / "s.safetensors")
    assert len(scores) == 13
    assert metadata["images"] == 20


def test_options_are_recorded_as_their_types(files, tmp_path):
    words = ("--images", 20, "--option", "images=5", "--option", "positions=2")
    assert run(files, tmp_path / "s.safetensors", *words, method="thinet") == 0
    assert load_scores(tmp_path / "s.safetensors")[1]["options"] == {"images": 5, "positions": 2}


def test_a_choice_of_images(files, tmp_path):
    for words, count in ((("--images", 30), 30), (("--per-class", 2), 20)):
        assert run(files, tmp_path / "s.safetensors", *words) == 0
        assert load_scores(tmp_path / "s.safetensors")[1]["images"] == count
    dataset = data.load(files / "digits.safetensors")
    chosen = data.subset(dataset.train, per_class=2, seed=0)
    model = fgp.load(files / "model.safetensors").eval()
    expected = fgp.score(model, data.batches(chosen, dataset, 20))
    for name, values in load_scores(tmp_path / "s.safetensors")[0].items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (("--option", "form"), {}, "expected KEY=VALUE"),
        (("--option", "frm=abs"), {}, "did you mean form"),
        (("--option", "form=gap"), {}, "--option form: 'gap'; did you mean gapfirst"),
        (("--option", "form=gapfirst", "--option", "normalise=jointmax"), {}, "--option normalise='jointmax': form='gapfirst'"),
        (("--option", "form=abs", "--option", "form=abs"), {}, "--option form=abs: form is given twice"),
        (("--option", "images=0"), {"method": "thinet"}, "--option images: '0'; give a whole number of at least 1"),
        (("--option", "strength=1"), {"method": "slimming"}, "--option strength: slimming has no such option; legal: none"),
        (("--option", "a=1"), {"method": "l1"}, "--option a: l1 has no such option"),
        ((), {"method": "fgpp"}, "method 'fgpp'"),
        ((), {"method": "scratch-e"}, "kind scratch"),
        ((), {"weights": "absent.safetensors"}, "absent.safetensors"),
        ((), {"weights": "other.safetensors"}, "vgg16|7 outputs"),
        (("--images", 0), {}, "limit 0"),
    ],
)
def test_errors_leave_no_file(files, tmp_path, capsys, words, options, message):
    fgp.save(models.build("vgg16", 7, 1 / 16), files / "other.safetensors")
    assert run(files, tmp_path / "s.safetensors", *words, **options) == 1
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|"))
    assert not list(tmp_path.iterdir())


def test_scores_files_keep_values_and_order(tmp_path):
    scores = fgp.score(residual(), [classification()])
    shuffled = {name: scores[name] for name in sorted(scores, reverse=True)}
    save_scores(tmp_path / "s", shuffled, method="fgp", seconds=1.5)
    loaded, metadata = load_scores(tmp_path / "s")
    assert list(loaded) == list(shuffled)
    assert all(torch.equal(loaded[name], scores[name].float()) for name in scores)
    assert metadata["seconds"] == 1.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_nan_and_infinity_are_refused(tmp_path, value):
    bad = {"a": torch.ones(2), "b": torch.tensor([1.0, value], dtype=torch.float64)}
    with pytest.raises(FgpError, match=r"s: scores of b hold NaN or infinity"):
        save_scores(tmp_path / "s", bad)
    assert not list(tmp_path.iterdir())
    tensorfiles.write(tmp_path / "s", {name: tensor.float() for name, tensor in bad.items()}, {"layers": ["a", "b"]})
    with pytest.raises(FgpError, match=r"s: scores of b hold NaN or infinity"):
        load_scores(tmp_path / "s")


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(FgpError, match="no scores"):
        save_scores(path, {})
    with pytest.raises(FgpError, match="vector of floats"):
        save_scores(path, {"a": torch.ones(2, 2)})
    with pytest.raises(FgpError, match="s: no such file"):
        load_scores(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(FgpError, match="s: not a scores file"):
        load_scores(path)
    save_scores(path, {"a": torch.ones(200)})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FgpError, match="s: not a scores file"):
        load_scores(path)
    for metadata in (None, {"fgp": "[]"}, {"fgp": "{"}, {"fgp": json.dumps({"layers": ["b"]})}):
        save_file({"a": torch.ones(2)}, path, metadata)
        with pytest.raises(FgpError, match=r"s: .*scores file"):
            load_scores(path)
