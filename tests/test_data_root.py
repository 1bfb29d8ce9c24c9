"""A data root that is gone: prepared data that could not be made anew are kept."""

import pytest
from fgp_workflow.data_root import check
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout
from made_up import experiment, task

from fgp.errors import FgpError
from fgp.files import write_sealed


def keys(source, root, **keys):
    dataset = {"source": source, "size": 32, **keys}
    return Keys(experiment(data_root=root, datasets={"mine": dataset}, tasks={"a": task("mine", "vgg16")}, methods=["l1"]))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A data root with an image, and a folder of results with data that were prepared from it."""
    monkeypatch.delenv("FGP_DATA", raising=False)
    image = tmp_path / "root/small/train/cat/1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"an image")
    paths = Layout(str(tmp_path / "results"))
    made = keys("folder:small", str(tmp_path / "root")).data("mine").key
    write_sealed(paths.data.format(dataset="mine"), {"provenance": {"key": made}})
    return tmp_path / "root", paths


@pytest.mark.parametrize(
    ("root", "said"),
    [(None, "neither `data_root` nor the environment variable FGP_DATA is set"), ("/not/there", "root /not/there is no folder")],
)
def test_data_that_cannot_be_prepared_anew_are_kept(prepared, root, said):
    _, paths = prepared
    with pytest.raises(FgpError, match=said) as refusal:
        check(keys("folder:small", root), paths, "my.yaml")
    assert str(refusal.value).startswith(f"my.yaml: datasets.mine: {paths.root}/data/mine.safetensors would be prepared anew")


def test_a_data_root_that_is_there(prepared, monkeypatch):
    root, paths = prepared
    check(keys("folder:small", str(root)), paths, "my.yaml")
    check(keys("folder:other", str(root)), paths, "my.yaml")
    monkeypatch.setenv("FGP_DATA", str(root))
    check(keys("folder:small", None), paths, "my.yaml")


def test_data_that_need_no_root(prepared):
    _, paths = prepared
    check(keys("digits", None), paths, "my.yaml")
    check(keys("cifar10", "/not/there", download=True), paths, "my.yaml")
    check(keys("folder:small", None), Layout("/nothing/prepared"), "my.yaml")
    write_sealed(paths.data.format(dataset="mine"), {"provenance": {"key": keys("cifar10", None).data("mine").key}})
    check(keys("cifar10", None), paths, "my.yaml")
