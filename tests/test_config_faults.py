"""Configurations that cannot work are refused when they are read, a case a fault."""

import re

import pytest
import yaml
from fgp_workflow.config import load
from fgp_workflow.config_checks import RESERVED, too_many_threads
from fgp_workflow.inputs import check_repeated_keys, read_yaml
from test_config import ROOT, demo, set_in

from fgp import data
from fgp.data import camvid, cityscapes
from fgp.data.preparing import KNOWN, SOURCES
from fgp.errors import FgpError

VGG, SCENES = "tasks/digits-vgg16", "tasks/scenes-segnet"
OPTIONS = "tasks.digits-vgg16.options."
SEGMENTATION_RECIPE = {"epochs": 1, "lr": 0.1, "class_weights": "median_frequency"}


def refusal(raw):
    with pytest.raises(FgpError) as caught:
        load(raw, "config/my.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (f"{VGG}/options", {"slimming": {"strength": -1}}, f"{OPTIONS}slimming.strength: -1; give a number of at least 0"),
        (f"{VGG}/options", {"slimming": {"strength": float("nan")}}, f"{OPTIONS}slimming.strength: nan; give a number of at"),
        (f"{VGG}/options", {"frs": {"images": "many"}}, f"{OPTIONS}frs.images: 'many'; give a whole number of at least 1"),
        (f"{VGG}/options", {"frs": {"images": True}}, f"{OPTIONS}frs.images: True; give a whole number of at least 1"),
        (f"{VGG}/options", {"frs": {"images": "{n}"}}, f"{OPTIONS}frs.images: '{{n}}'; give a whole number of at least 1"),
        (f"{VGG}/options", {"frs": {"until": 1.5}}, f"{OPTIONS}frs.until: 1.5; give a number of at least 0 and at most 1"),
        (f"{VGG}/options", {"frs": {"image": 5}}, f"{OPTIONS}frs.image: frs has no such option; did you mean images?"),
        (f"{VGG}/options", {"l1": {"images": 5}}, f"{OPTIONS}l1.images: l1 has no such option; legal: none"),
        (f"{VGG}/options", {"fgp": {"form": "a\nb"}}, f"{OPTIONS}fgp.form: 'a\\nb'; did you mean abs? give canonical or"),
        (
            f"{VGG}/options",
            {"fgp": {"form": "gapfirst", "normalise": "jointmax"}},
            f"{OPTIONS}fgp.normalise='jointmax': form='gapfirst' sums the map before the ReLU",
        ),
        ("cells_per_job", 4, "cells_per_job: every cell is a job now; remove the key"),
        ("seeds", [0, 1, 0], "seeds: 0 stands there twice"),
        ("seeds", [2**63], "seeds.0: Input should be less than or equal to 9223372036854775807"),
        (f"{VGG}/seeds", [0, 0], "tasks.digits-vgg16.seeds: 0 stands there twice"),
        ("datasets/digits32/seed", 2**63, "datasets.digits32.seed: Input should be less than or equal to 9223372036854775807"),
        ("methods", ["fgp", "l1", "fgp"], "methods: 'fgp' stands there twice"),
        ("only", ["digits-vgg16"] * 2, "only: 'digits-vgg16' stands there twice"),
        (f"{VGG}/methods", ["l1", "l1"], "tasks.digits-vgg16.methods: 'l1' stands there twice"),
        (f"{VGG}/without", ["l1", "l1"], "tasks.digits-vgg16.without: 'l1' stands there twice"),
        ("figures/fig4/tasks", ["digits-vgg16"] * 2, "figures.fig4.tasks: 'digits-vgg16' stands there twice"),
        ("figures/fig4/tasks", [], "figures.fig4.tasks: Tuple should have at least 1 item"),
        ("figures/fig3a/k", [0.1, 0.2, 0.1], "figures.fig3a.k: 0.1 stands there twice"),
        ("figures/fig3a/k", [], "figures.fig3a.k: Tuple should have at least 1 item"),
        ("figures/fig3b/classes", [2, 2], "figures.fig3b.classes: 2 stands there twice"),
        ("figures/fig3b/classes", [], "figures.fig3b.classes: Tuple should have at least 1 item"),
        ("latency/batch_sizes", [8, 8], "latency.batch_sizes: 8 stands there twice"),
        ("latency/batch_sizes", [], "latency.batch_sizes: Tuple should have at least 1 item"),
        ("data_root", "/data/{version}", "data_root: braces and control characters are not possible here"),
        ("data_root", "/data\n", "data_root: braces and control characters are not possible here"),
        ("datasets/digits32/source", "folder:{a}", "datasets.digits32.source: braces and control characters are not possible"),
        ("datasets/digits32/source", "folder:", "datasets.digits32.source: 'folder:'; after folder: comes the name of a folder"),
        ("datasets/digits32/source", "folder:a/b", "datasets.digits32.source: 'folder:a/b'; after folder: comes the name of"),
        ("datasets/digits32/source", "folder:..", "datasets.digits32.source: 'folder:..'; after folder: comes the name of"),
        ("datasets/digits32/size", 0, "datasets.digits32.size: each side has 1 to 16384 pixels (found 0)"),
        (
            "datasets/scenes/size",
            [32, 2**14 + 1],
            "datasets.scenes.size: each side has 1 to 16384 pixels",
        ),
        ("datasets/digits32/classes", 11, "datasets.digits32.classes: 11, but digits has 10; give 2 to 10"),
        ("datasets/scenes", {"source": "camvid", "classes": 3}, "datasets.scenes.classes: only a classification set and scenes"),
        ("datasets/digits32/train_limit", 9, "datasets.digits32.train_limit: 9 images, but 10 classes; give at least 10"),
        ("datasets/digits32/test_limit", 9, "datasets.digits32.test_limit: 9 images, but 10 classes; give at least 10"),
        ("scoring/images", 9, "scoring.images: 9, but digits32 has 10 classes; give at least 10"),
        ("figures/fig3b/classes", [5, 11], "figures.fig3b.classes: 11, but digits has 10; give 2 to 10"),
        ("figures/fig1/classes", 11, "figures.fig1.classes: 11, but digits32 has 10; give 1 to 10"),
        (
            "figures/fig4/share",
            0.6,
            "figures.fig4: share: 0.6 of all channels do not fit into a pool of 0.5; lower `share` or raise",
        ),
        (f"{SCENES}/recipe", "digits", "tasks.scenes-segnet.recipe: recipes.digits: crop_padding is for classification"),
        (f"{SCENES}/finetune", "digits", "tasks.scenes-segnet.finetune: recipes.digits: crop_padding is for classification"),
        (f"{SCENES}/stage_recipes", {"cap": "digits"}, "tasks.scenes-segnet.stage_recipes.cap: recipes.digits: crop_padding is"),
        ("recipes/digits", SEGMENTATION_RECIPE, "tasks.digits-vgg16.recipe: recipes.digits: class_weights is for segmentation"),
        (f"{SCENES}/network", "tv_deeplabv3", "tasks.scenes-segnet.width: 0.125, but tv_deeplabv3 has a fixed width"),
    ],
)
def test_a_fault_is_named_by_file_and_key(key, value, message):
    found = refusal(set_in(demo(), key, value))
    assert found.startswith("config/my.yaml: ")
    assert message in found


def test_what_is_just_legal_is_read():
    raw = demo()
    for key, value in (
        ("seeds", [2**63 - 1, 0]),
        ("datasets/digits32/classes", 10),
        ("datasets/digits32/train_limit", 10),
        ("datasets/digits32/test_limit", 10),
        ("datasets/digits32/size", [1, 2**14]),
        ("scoring/images", 10),
        ("figures/fig3b/classes", [2, 10]),
        ("figures/fig1/classes", 10),
        ("figures/fig4/share", 0.5),
        ("data_root", "/data/my own é"),
        ("latency/batch_sizes", [1]),
        (f"{VGG}/options", {"frs": {"images": "400", "until": 0}, "dcp": {"residual": True}, "fgp": {"form": "abs"}}),
    ):
        set_in(raw, key, value)
    assert load(raw, "x").tasks["digits-vgg16"].options["frs"] == {"images": "400", "until": 0}


@pytest.mark.parametrize("name", [*RESERVED, "Partial", "TABLES"])
@pytest.mark.parametrize("section", ["tasks", "datasets"])
def test_names_that_a_run_needs_are_refused(section, name):
    raw = demo()
    raw[section][name] = next(iter(raw[section].values()))
    assert refusal(raw) == f"config/my.yaml: {section}.{name}: a run needs this name for itself; rename it"


def test_the_names_that_a_run_needs_are_those_that_the_rules_make():
    texts = [path.read_text() for path in (ROOT / "Snakefile", *(ROOT / "workflow/rules").rglob("*.smk"))]
    made = {name for text in texts for name in re.findall(r'PATHS\.run\("([a-z][a-z.]*)"', text)}
    assert {"partial", "cells.csv", "report.html"} <= made
    assert made <= set(RESERVED)


@pytest.mark.parametrize(("section", "name"), [("tasks", "Digits-VGG16"), ("datasets", "DIGITS32")])
def test_names_that_differ_in_case_only_are_refused(section, name):
    raw = demo()
    raw[section][name] = raw[section][name.lower()]
    message = f"config/my.yaml: {section}.{name}: some file systems do not tell it from {name.lower()}; rename it"
    assert refusal(raw) == message


@pytest.mark.parametrize(("section", "name"), [("tasks", "digits-vgg16"), ("datasets", "digits32")])
def test_names_that_the_class_sweep_needs_are_refused(section, name):
    raw = demo()
    raw[section][f"{name}-c5"] = raw[section][name]
    assert refusal(raw) == f"config/my.yaml: {section}.{name}-c5: figures.fig3b needs this name for 5 classes; rename it"
    raw[section][f"{name}-c6"] = raw[section].pop(f"{name}-c5")
    load(raw, "x")


def test_limits_count_the_classes_that_are_left():
    raw = set_in(demo(), "datasets/digits16/classes", 4)
    set_in(raw, "datasets/digits16/train_limit", 4)
    load(raw, "x")
    set_in(raw, "datasets/digits16/train_limit", 3)
    assert "datasets.digits16.train_limit: 3 images, but 4 classes" in refusal(raw)


def test_limits_count_the_classes_of_the_sweep():
    raw = set_in(demo(), "datasets/digits32/classes", 4)
    set_in(raw, "datasets/digits32/test_limit", 4)
    assert "datasets.digits32.test_limit: 4 images, but 5 classes" in refusal(raw)


def test_of_an_image_folder_the_classes_are_not_known():
    raw = set_in(demo(), "datasets/digits32", {"source": "folder:mine", "train_limit": 5})
    assert load(set_in(raw, "scoring/images", 10), "x")


@pytest.mark.parametrize("source", ["digits", "scenes"])
def test_what_is_known_of_the_sources_is_true(source, tmp_path):
    data.prepare(source, tmp_path / "data", train_limit=20, test_limit=10)
    dataset = data.load(tmp_path / "data")
    assert KNOWN[source] == (dataset.task, len(dataset.classes))


def test_every_source_is_known():
    assert KNOWN.keys() == SOURCES.keys()
    assert KNOWN["camvid"] == ("segmentation", len(camvid.CLASSES))
    assert KNOWN["cityscapes"] == ("segmentation", len(cityscapes._CLASSES))
    assert (KNOWN["cifar10"], KNOWN["cifar100"]) == (("classification", 10), ("classification", 100))


def test_more_threads_than_cores_are_told():
    config = load({**demo(), "threads": 3, "latency": {"threads": 5}}, "x")
    assert too_many_threads(config, 5) is None
    assert too_many_threads(config, 4).startswith("latency.threads: 5 threads a job, but this machine has 4 cores")
    assert too_many_threads(config, 2).startswith("threads: 3 threads a job, but this machine has 2 cores")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nseeds: [0]\nrun: b\n", "line 3: the key run stands in line 1 already"),
        ("tasks:\n  a: {k: 1,\n    k: 2}\n", "line 3: the key k stands in line 2 already"),
        ("list:\n- {x: 1}\n- {y: 1, z: 2, y: 3}\n", "line 3: the key y stands in line 3 already"),
        ('{\n\t"run": "a",\n\t"run": "b"\n}\n', "line 3: the key run stands in line 2 already"),
        ("k: {0.4: a, 0.40: b}\n", "line 1: the key 0.40 stands in line 1 already"),
        ("a: &all {b: 1, b: 2}\nc: *all\n", "line 1: the key b stands in line 1 already"),
        ("a: [1\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
    ],
)
def test_repeated_keys_are_named_with_their_lines(tmp_path, text, message):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(FgpError, match=f"^{re.escape(str(path))}: {message}"):
        check_repeated_keys(path)


def test_keys_that_are_not_repeated(tmp_path):
    path = tmp_path / "my.yaml"
    for text in (
        "a: {x: 1}\nb: {x: 1}\n",
        "a: &all {x: 1}\nb: {<<: *all, x: 2}\n",
        "a: &loop [*loop]\n",
        '{\n\t"a": {"x": 1},\n\t"b": {"x": 1}}',
        "# " + "x" * 10**6,
        "",
    ):
        path.write_text(text)
        check_repeated_keys(path)
    with pytest.raises(FgpError, match="no such file"):
        check_repeated_keys(tmp_path / "absent.yaml")


def test_aliases_are_read_and_repeated_keys_refused(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("a: &one {x: 1}\nb: *one\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}}
    path.write_text(yaml.safe_dump(demo()) + "run: other\n")
    with pytest.raises(FgpError, match="the key run stands in line"):
        read_yaml(path)
