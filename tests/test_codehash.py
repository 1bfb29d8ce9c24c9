import subprocess
import sys

import pytest

from fgp import codehash


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
    for function in (codehash.of, codehash._files, codehash._imports, codehash._lazy, codehash._tree, codehash._meaning):
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


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("fgp/plot.py", "from .loss import mean\n"),
        ("fgp/plot.py", "from . import loss\n"),
        ("fgp/score/files.py", "from ..loss import mean\n"),
        ("fgp/score/__init__.py", "from .. import loss\n"),
        ("fgp/score/__init__.py", "from .engine import mean\n"),
    ],
)
def test_relative_imports_count(project, file, text):
    (project / "fgp/plot.py").write_text("import fgp.score\nimport fgp.score.files\n")
    (project / "fgp/score/__init__.py").write_text("")
    (project / file).write_text(text)
    before = hashes()["plot"]
    (project / ("fgp/score/engine.py" if "engine" in text else "fgp/loss.py")).write_text("edited = True\n")
    assert hashes()["plot"] != before


def test_what_means_the_same_has_the_same_hash(project):
    (project / "fgp/loss.py").write_text('''"""Losses."""

import torch


class Loss:
    """A loss."""

    weight = 0.5  # of an image

    def __call__(self, x, *, y=(1, 2)):
        """Return it."""
        "And a remark."
        return f"{x!r}" if x else {"a": [y, self.weight]}
''')
    before = hashes()
    (project / "fgp/loss.py").write_text('''"""Losses, edited."""
# A comment.
import torch
class Loss:
    weight = (0.5)
    def __call__(self, x, *,
                 y=(1, 2,)):
        """Return it, edited."""
        return (f'{x!r}'
                if x else {'a': [y, self.weight]})
''')
    assert hashes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.5", "0.25"), ("y=(1, 2)", "y=(1, 3)"), ("x, *, y", "x, y"), ("if x", "if not x"), ('"a"', '"b"'), ("{x!r}", "{x!s}")],
)
def test_what_means_another_thing_has_another_hash(project, old, new):
    text = 'weight = 0.5\ndef call(x, *, y=(1, 2)):\n    return f"{x!r}" if x else {"a": [y]}\n'
    (project / "fgp/loss.py").write_text(text)
    before = hashes()
    (project / "fgp/loss.py").write_text(text.replace(old, new))
    assert hashes()["train"] != before["train"]


def test_a_text_that_is_used_counts_and_one_that_stands_alone_does_not(project):
    (project / "fgp/loss.py").write_text('text = "one"\n')
    before = hashes()
    (project / "fgp/loss.py").write_text('text = "one"\n"""of the field"""\n')
    assert hashes() == before
    (project / "fgp/loss.py").write_text('text = "two"\n')
    assert hashes()["train"] != before["train"]


def test_the_hash_is_the_same_under_another_version_of_python(project):
    """Python 3.12 gives functions and classes a list of type parameters, empty here."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ast; from fgp import codehash; "
    code += "[setattr(kind, '_fields', (*kind._fields, 'type_params')) for kind in (ast.FunctionDef, ast.ClassDef)]; "
    code += "setattr(ast.FunctionDef, 'type_params', []); setattr(ast.ClassDef, 'type_params', []); "
    code += "print(codehash.of('fgp.cli.train'))"
    clear()
    project_of_this = str(codehash.__file__.removesuffix("/fgp/codehash.py"))
    shown = subprocess.run([sys.executable, "-c", code, project_of_this], capture_output=True, text=True, check=True).stdout
    plain = subprocess.run(
        [sys.executable, "-c", "from fgp import codehash; print(codehash.of('fgp.cli.train'))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown == plain


def test_the_real_stages_contain_what_they_run():
    def modules(entry):
        files = set()
        codehash._add(entry, files, set())
        return {path.relative_to(codehash.ROOT).as_posix() for path in files}

    assert {"fgp/train/loop.py", "fgp/models/layers.py", "fgp/data/dataset.py"} <= modules("fgp.cli.train")
    assert not {"fgp/data/scenes.py", "fgp/models/vgg.py", "fgp/surgery.py", "baselines/l1.py"} & modules("fgp.cli.train")
    assert "fgp/scoring/__init__.py" not in modules("fgp.cli.train")
    assert "fgp/scoring/engine.py" not in modules("fgp.cli.finetune")
    assert "fgp/scoring/formulas.py" not in modules("baselines.slimming") | modules("baselines.dcp") | modules("baselines.frs")
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
