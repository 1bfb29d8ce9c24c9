import pytest
from fgp_workflow import codehash


@pytest.fixture
def project(tmp_path, monkeypatch):
    files = {
        "fgp/__init__.py": "",
        "fgp/train.py": "from fgp.data import load\nfrom fgp.score.files import save\ndef fit():\n    import fgp.loss\n"
        "if TYPE_CHECKING:\n    import fgp.types\n",
        "fgp/types.py": "",
        "fgp/score/__init__.py": "from fgp.score.engine import score",
        "fgp/score/engine.py": "",
        "fgp/score/files.py": "",
        "fgp/loss.py": "import json\n",
        "fgp/plot.py": "from fgp import colours\n",
        "fgp/colours.py": "",
        "fgp/data/__init__.py": '_ATTRIBUTES = {"load": "fgp.data.loading"}\n',
        "fgp/data/loading.py": "",
        "fgp/data/source.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(codehash, "ROOT", tmp_path)
    monkeypatch.setattr(codehash, "PACKAGES", {"fgp": tmp_path / "fgp"})
    yield tmp_path
    clear()


def clear():
    for function in (codehash.of, codehash._files, codehash._imports, codehash._lazy):
        function.cache_clear()


def hashes():
    clear()
    return {stage: codehash.of(f"fgp.{stage}") for stage in ("train", "plot")}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("fgp/loss.py", {"train"}),
        ("fgp/train.py", {"train"}),
        ("fgp/colours.py", {"plot"}),
        ("fgp/plot.py", {"plot"}),
        ("fgp/__init__.py", {"train", "plot"}),
        ("fgp/other.py", set()),
        ("fgp/data/loading.py", {"train"}),
        ("fgp/data/source.py", set()),
        ("fgp/score/files.py", {"train"}),
        ("fgp/score/__init__.py", {"train"}),
        ("fgp/score/engine.py", set()),
        ("fgp/types.py", set()),
    ],
)
def test_an_edit_changes_the_stages_that_run_it_and_no_other(project, file, changed):
    before = hashes()
    (project / file).write_text("edited = True\n" + ("import fgp.loss\n" if file == "fgp/train.py" else ""))
    after = hashes()
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_the_real_stages_contain_what_they_run():
    def modules(entry):
        files = set()
        codehash._add(entry, files, set())
        return {path.relative_to(codehash.ROOT).as_posix() for path in files}

    assert {"fgp/train/loop.py", "fgp/models/layers.py", "fgp/data/dataset.py"} <= modules("fgp.cli.train")
    assert not {"fgp/data/scenes.py", "fgp/models/vgg.py", "fgp/surgery.py", "baselines/l1.py"} & modules("fgp.cli.train")
    assert "fgp/scoring/__init__.py" not in modules("fgp.cli.train")
    assert "fgp/scoring/engine.py" not in modules("fgp.cli.finetune")
    assert "fgp/train/loop.py" not in modules("fgp_workflow.tables")
    assert "fgp/scoring/__init__.py" in modules("baselines.fgp")


def test_of_alternatives_only_the_chosen_one_counts(project):
    (project / "fgp/data/loading.py").write_text("import fgp.loss, fgp.colours, fgp.plot\n")
    (project / "fgp/plot.py").write_text("import fgp.colours\n")
    alternatives = frozenset({"fgp.loss", "fgp.colours", "fgp.plot"})

    def of_each():
        clear()
        return [codehash.of("fgp.data.loading", chosen, but=alternatives) for chosen in ("fgp.loss", "fgp.plot")]

    before = of_each()
    (project / "fgp/loss.py").write_text("edited = True")
    loss = of_each()
    assert [a == b for a, b in zip(before, loss, strict=True)] == [False, True]
    (project / "fgp/colours.py").write_text("edited = True")
    assert [a == b for a, b in zip(loss, of_each(), strict=True)] == [True, False]
