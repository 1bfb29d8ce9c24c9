"""Broken files through the command line: exit status 1, one line on stderr, no output."""

import os

import pytest
import torch
from fgp_workflow import collect
from strategies import check_message, time_limit
from test_fuzz_archives import one_more, packed, patched
from test_fuzz_images import png
from test_fuzz_metrics import VALID as METRICS

import fgp
from fgp import tensorfiles
from fgp.cli import main
from fgp.data import prepare
from fgp.files import write_sealed
from fgp.models import build
from fgp.plans import facts, save_plan
from fgp.scoring.files import save_scores
from fgp.surgery import Structure

DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "noise": lambda content: bytes(range(256)) * 4,
    "header": lambda content: content[:8] + b"[" * 100_000 + content[8:],
    "types": lambda content: content.replace(b'"fgp": "{', b'"fgp": "[').replace(b'"plan": {', b'"plan": [1], "x\\n": {'),
    "length": lambda content: b"\xff" * 8 + content[8:],
    "infinity": lambda content: content.replace(b"0.015625", b"1e999999"),
}
PLAN = "plan --weights model --scores scores --selection count-0.50"
COMMANDS = {
    "prune-plan": ("plan.json", "prune --weights model --plan plan.json --input-size 3 32 32"),
    "prune-weights": ("model", "prune --weights model --plan plan.json --input-size 3 32 32"),
    "plan-scores": ("scores", f"{PLAN} --input-size 3 32 32"),
    "plan-data": ("data", f"{PLAN} --data data"),
    "evaluate-weights": ("model", "evaluate --weights model --data data"),
    "evaluate-data": ("data", "evaluate --weights model --data data"),
    "prune-scores": (
        "scores",
        "prune --weights model --scores scores --selection count-0.50 --write-plan out/plan --input-size 3 32 32",
    ),
    "finetune-weights": ("model", "finetune --weights model --data data --epochs 1 --lr 1 --seed 0"),
    "score-weights": ("model", "score --weights model --data data --method l1 --seed 0"),
}


def words(command):
    return [*COMMANDS[command][1].split(), "--out", "out/x"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    prepare("digits", folder / "data", size=32, train_limit=10, test_limit=10)
    model = build("vgg16", 10, 1 / 64)
    fgp.save(model, folder / "model")
    spec = model.fgp_spec.to_dict()
    scores = {name: torch.rand(m.out_channels) for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    save_scores(folder / "scores", scores, method="l1", seconds=0.5, spec=spec)
    structure = Structure(model, torch.empty(1, 3, 32, 32, device="meta"))
    save_plan(folder / "plan.json", **facts(structure, {"features.0": [0]}, False), selection="x", spec=spec, provenance={})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def place(tmp_path, sound, monkeypatch):
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complains(arguments, name, capsys, run=main):
    with time_limit():
        assert run(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    check_message(captured.err[:-1], name)
    assert not os.listdir("out")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", COMMANDS)
def test_damaged_file(place, sound, capsys, command, damage):
    name = COMMANDS[command][0]
    content = DAMAGE[damage](sound[name])
    if content == sound[name]:
        content = b"{" + content
    (place / name).write_bytes(content)
    complains(words(command), name, capsys)


@pytest.mark.parametrize("name", ["prune-plan", "plan-scores", "evaluate-weights"])
def test_the_sound_files_are_accepted(place, capsys, name):
    assert main(words(name)) == 0
    assert os.listdir("out") == ["x"]


@pytest.mark.parametrize("seconds", ["soon", -1, []])
def test_a_wrong_time_of_scoring_is_found_before_the_training(place, capsys, seconds):
    tensorfiles.write("scores", {"features.0": torch.ones(1)}, {"layers": ["features.0"], "seconds": seconds})
    complains(words("prune-scores"), "scores", capsys)
    fgp.save(fgp.load("model"), "model", score_seconds=seconds)
    complains(words("finetune-weights"), "model", capsys)


ZIPS = {
    "leaves the folder": lambda: packed([("../x.png", b"")]),
    "bomb": lambda: one_more(1 << 24),
    "lying bomb": lambda: patched(one_more(1 << 24), {22: ("<I", 10)}, {24: ("<I", 10)}),
    "encrypted": lambda: patched(one_more(10), {6: ("<H", 1)}, {8: ("<H", 1)}),
    "no picture": lambda: packed([("pets/train/a/1.png", b"x")]),
    "cut": lambda: packed()[:-30],
    "line break": lambda: packed([("pets/train/a\nb/1.png", b"x")]),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zip(place, capsys, kind):
    (place / "pets.zip").write_bytes(ZIPS[kind]())
    complains(["data", "--source", "folder:pets", "--root", ".", "--size", "4", "--out", "out/x"], "pets.zip", capsys)
    assert sorted(os.listdir(place)) == sorted(["data", "model", "out", "pets.zip", "plan.json", "scores"])


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_picture_bomb(place, capsys, side):
    (place / "pets.zip").write_bytes(packed([("pets/train/a/1.png", png(side, side))]))
    complains(["data", "--source", "folder:pets", "--root", ".", "--size", "4", "--out", "out/x"], "pets.zip", capsys)


@pytest.mark.parametrize("change", [{"after": "NaN"}, {"kept": 1}, {"x\ny": 1}, {"macs": 10**400}, {"seed": 1}])
def test_collect(place, capsys, change):
    (place / "toy/seed0/fgp/macs-0.5").mkdir(parents=True)
    path = place / "toy/seed0/fgp/macs-0.5/metrics.json"
    write_sealed(path, {**METRICS, **change})
    complains(["--metrics", str(path), "--out", "out/cells.csv"], "metrics.json", capsys, collect.main)
