"""Keys of stages: what changes them, what does not, and that no two results share one."""

import copy
import dataclasses
from pathlib import Path

import pytest
from fgp_workflow import keys as module
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment, facts
from fgp_workflow.keys import Keys, halves

from fgp import codehash

ROOT = Path(__file__).parents[1]
VGG, SEGNET, MACS = "digits-vgg16", "scenes-segnet", "macs-0.5000"
CONFIG = {
    "run": "x",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits32": {"source": "digits", "size": 32}, "scenes": {"source": "scenes", "size": [32, 48]}},
    "recipes": {
        **{"long": {"epochs": 2, "lr": 0.1}, "short": {"epochs": 1, "lr": 0.1}},
        **{"scenes": {"epochs": 2, "lr": 0.1}, "own": {"epochs": 1, "lr": 0.1}},
    },
    "tasks": {
        VGG: {
            **{"dataset": "digits32", "network": "vgg16", "width": 0.125, "recipe": "long", "finetune": "short"},
            **{"budgets": {"half": 0.5}, "methods": ["fgp", "thinet", "slimming", "dcp", "aofp", "slimconv", "scratch-e"]},
        },
        SEGNET: {
            **{"dataset": "scenes", "network": "segnet", "width": 0.125, "recipe": "scenes", "finetune": "scenes"},
            **{"stage_recipes": {"dcfp": "own"}, "budgets": {"half": 0.5}, "methods": ["dcfp"]},
        },
    },
    "methods": ["fgp", "thinet", "slimming", "dcp", "aofp", "slimconv", "scratch-e", "dcfp"],
    "scoring": {"images": 100},
}


def scored(task, method, start):
    """The stages of a method whose scores are read: what each reads."""
    way = [f"{task} {rule} {method}" for rule in ("score", "prune", "finetune")]
    return dict(zip(way, ([start], [way[0]], [way[1]]), strict=True))


READS = {
    **{f"{VGG} {stage}": [f"{VGG} data"] for stage in ("budgets", "train dense", "train slimconv", "own slimming")},
    **{f"{VGG} own {method}": [f"{VGG} train dense"] for method in ("dcp", "aofp")},
    **scored(VGG, "fgp", f"{VGG} train dense"),
    **scored(VGG, "thinet", f"{VGG} train dense"),
    **scored(VGG, "slimming", f"{VGG} own slimming"),
    **scored(VGG, "dcp", f"{VGG} own dcp"),
    f"{VGG} finetune aofp": [f"{VGG} own aofp"],
    f"{VGG} scratch scratch-e": [f"{VGG} prune fgp"],
    **{f"{SEGNET} {stage}": [f"{SEGNET} data"] for stage in ("budgets", "train dense", "own dcfp")},
    **scored(SEGNET, "dcfp", f"{SEGNET} own dcfp"),
}
"""Which stage reads the results of which others; the data are read by all of a task."""
LAST = ("finetune", "scratch", "train")
for name in (VGG, SEGNET):
    READS[f"{name} measure"] = [stage for stage in READS if stage.split()[:1] == [name] and stage.split()[1] in LAST]
    READS[f"{name} data"] = []


def following(stages):
    """These stages and all that read their results."""
    found = set(stages)
    while more := {stage for stage, read in READS.items() if found & set(read)} - found:
        found |= more
    return found


def every(*rules):
    """The stages of a rule, or of a rule and method."""
    return {stage for stage in READS if stage.split(" ", 1)[1].startswith(rules)}


def of(task, *stages):
    return {f"{task} {stage}" for stage in stages}


def experiment(config=None):
    return Experiment(load(copy.deepcopy(config or CONFIG), "config.yaml"))


def stage(keys, name, seed=0):
    """The stage of a name in `READS`."""
    task, rule, *method = name.split()
    method = method[0] if method else None
    if rule in ("data", "budgets", "measure"):
        return {
            "data": lambda: keys.data(keys.experiment.tasks[task].dataset),
            "budgets": lambda: keys.budgets(task),
            "measure": lambda: keys.measure(task, seed),
        }[rule]()
    if rule == "own":
        return keys.own_training(task, seed, method, MACS if method == "aofp" else "sparse")
    if rule == "score":
        return keys.score(task, seed, method)
    if rule == "prune":
        return keys.prune(task, seed, method, MACS)
    return keys.cell(task, seed, method, "unpruned" if rule == "train" else MACS)


def all_keys(config=None, seed=0):
    keys = Keys(experiment(config))
    there = {name for name in READS if len(name.split()) < 3 or name.split()[2] in {"dense", *keys.experiment.config.methods}}
    return {name: stage(keys, name, seed).key for name in READS if name in there}


def changed(before, after, half):
    return {name for name in after if halves(before[name])[half] != halves(after[name])[half]}


def set_in(config, key, value):
    first, _, rest = key.partition("/")
    return config | {first: set_in(config.get(first, {}), rest, value) if rest else value}


@pytest.fixture(scope="module")
def before():
    return all_keys()


SCORED = every("score", "prune thinet", "prune dcfp") - every("score dcp", "score dcfp")  # these have scored while they trained
TRAININGS = every("train", "own", "finetune", "scratch")
SETTINGS = {
    "recipes/short/lr": (0.2, {s for s in every("finetune", "own dcp", "own aofp") if s.startswith(VGG)}),
    "recipes/long/weight_decay": (0.1, of(VGG, "train dense", "train slimconv", "own slimming", "scratch scratch-e")),
    "recipes/own/epochs": (2, of(SEGNET, "own dcfp")),
    f"tasks/{VGG}/finetune": ("long", {s for s in every("finetune", "own dcp", "own aofp") if s.startswith(VGG)}),
    f"tasks/{VGG}/width": (0.25, of(VGG, "budgets", "train dense", "train slimconv", "own slimming")),
    f"tasks/{VGG}/tied": (True, {s for s in every("prune", "own aofp") if s.startswith(VGG)}),
    f"tasks/{VGG}/stage_recipes": ({"aofp": "long"}, of(VGG, "own aofp")),
    f"tasks/{VGG}/options": ({"slimming": {"strength": 0.01}}, of(VGG, "own slimming")),
    f"tasks/{VGG}/options/fgp": ({"form": "abs"}, of(VGG, "score fgp")),
    f"tasks/{VGG}/options/dcp": ({"turns": 8}, of(VGG, "own dcp")),
    f"tasks/{VGG}/options/aofp": ({"theta": 3}, of(VGG, "own aofp")),
    f"tasks/{VGG}/without": (["thinet"], of(VGG, "measure")),
    "scoring/images": (50, SCORED),
    "scoring/batch_size": (64, SCORED),
    "engine/precision": ("bf16", TRAININGS),
    "device": ("auto", set(READS) - every("data", "budgets")),
    "latency/seconds": (9.0, every("measure")),
    "datasets/digits32/size": (16, of(VGG, "data")),
    "datasets/digits32/seed": (1, of(VGG, "data")),
    "datasets/scenes/train_limit": (50, of(SEGNET, "data")),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_changes_what_reads_it_and_what_follows(before, key):
    value, roots = SETTINGS[key]
    after = all_keys(set_in(CONFIG, key, value))
    assert changed(before, after, 0) == following(roots)
    if key != f"tasks/{VGG}/without":
        assert changed(before, after, 1) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", "elsewhere"),
        ("threads", 2),
        ("gpu_slots", 3),
        ("accept_code", True),
        ("seeds", [0, 1]),
        ("data_root", "/some/folder"),
        ("datasets/digits32/download", True),
        (f"tasks/{VGG}/gpu_mem_mb", 9000),
        (f"tasks/{VGG}/paper", {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"}),
        ("figures", {"fig1": {"task": VGG}}),
        ("recipes/unused", {"epochs": 5, "lr": 1.0}),
    ],
)
def test_what_changes_no_result_changes_no_key(before, key, value):
    config = set_in(CONFIG, key, value)
    if key == "figures":
        config = set_in(config, f"tasks/{VGG}/k", {"row": 0.4})
    after = all_keys(config)
    assert {name: after[name] for name in after if not name.endswith("measure")} == {
        name: before[name] for name in before if not name.endswith("measure")
    }
    assert key == "figures" or after == before


CODE = {
    "fgp/train/loop.py": TRAININGS,
    "fgp/train/discrimination.py": of(VGG, "own dcp"),
    "fgp/cli/train.py": every("train", "scratch"),
    "fgp/cli/stage.py": every("own"),
    "fgp/cli/score.py": every("score"),
    "fgp/cli/prune.py": every("prune"),
    "fgp/cli/finetune.py": every("finetune"),
    "fgp/cli/measure.py": every("measure"),
    "fgp/cli/data.py": every("data"),
    "fgp/cli/budgets.py": set(),
    "fgp/cli/rerun.py": set(),
    "fgp/select.py": every("prune"),
    "fgp/latency.py": every("measure"),
    "fgp/data/digits.py": every("data"),
    "fgp/data/scenes.py": of(SEGNET, "data"),
    "fgp/data/camvid.py": set(),
    "fgp/models/segnet.py": of(SEGNET, "train dense", "own dcfp"),
    "fgp/models/vgg.py": every("train", "own"),
    "fgp/models/resnet.py": of(VGG, "train slimconv"),
    "fgp/models/deeplab.py": set(),
    "fgp/scoring/engine.py": of(VGG, "score fgp"),
    "baselines/fgp.py": of(VGG, "score fgp"),
    "baselines/thinet.py": of(VGG, "score thinet"),
    "baselines/slimming.py": of(VGG, "own slimming"),
    "baselines/dcp.py": of(VGG, "own dcp"),
    "baselines/aofp.py": of(VGG, "own aofp"),
    "baselines/dcfp.py": of(SEGNET, "own dcfp"),
    "baselines/scratch_e.py": set(),
    "baselines/l1.py": set(),
    "workflow/fgp_workflow/collect.py": set(),
    "workflow/fgp_workflow/keys.py": set(),
}


@pytest.fixture
def edit(monkeypatch):
    """Let a file of the project have another meaning until the test ends."""
    meaning = codehash._meaning

    def edited(file):
        assert (ROOT / file).exists()
        monkeypatch.setattr(codehash, "_meaning", lambda path: meaning(path) + " edited" * (path == ROOT / file))
        codehash.of.cache_clear()

    yield edited
    monkeypatch.undo()
    codehash.of.cache_clear()


@pytest.mark.parametrize("file", CODE)
def test_code_changes_what_runs_it_and_what_follows(before, edit, file):
    edit(file)
    after = all_keys()
    assert changed(before, after, 1) == following(CODE[file])
    assert changed(before, after, 0) == set()


@pytest.mark.parametrize(
    ("file", "part"),
    [("baselines/thinet.py", f"{VGG} prune thinet"), ("baselines/dcfp.py", f"{SEGNET} finetune dcfp")],
)
def test_a_method_that_adjusts_weights_or_the_loss_counts_there_too(edit, file, part):
    own = stage(Keys(experiment()), part)
    assert file.removesuffix(".py").replace("/", ".") in own.modules
    plain = {f"{VGG} prune fgp", f"{VGG} finetune thinet"}
    assert not any(name.startswith("baselines.") for other in plain for name in stage(Keys(experiment()), other).modules)


@pytest.mark.parametrize(
    ("method", "rule", "name"),
    [
        ("fgp", "prune", f"{VGG} prune fgp"),
        ("fgp", "finetune", f"{VGG} finetune fgp"),
        ("slimconv", "train", f"{VGG} train slimconv"),
        ("scratch-e", "scratch", f"{VGG} scratch scratch-e"),
    ],
)
def test_a_rule_of_its_own_makes_a_methods_file_count(before, monkeypatch, method, rule, name):
    own = dataclasses.replace(facts(method), own_rule=rule)
    monkeypatch.setattr(module, "facts", lambda asked: own if asked == method else facts(asked))
    after = all_keys()
    assert changed(before, after, 1) == following({name})
    assert changed(before, after, 0) == set()


def test_seeds_are_the_same_as_numbers_and_as_text_but_differ_from_each_other(before):
    assert all_keys(seed="0") == before
    other = all_keys(seed=1)
    assert {name for name in READS if other[name] == before[name]} == every("data", "budgets")


def test_no_two_results_share_a_key():
    twin = {**CONFIG["tasks"][VGG], "budgets": {"half": 0.5, "third": 0.3}, "k": {"row": 0.4}}
    config = {**CONFIG, "seeds": [0, 1, 10], "tasks": {**CONFIG["tasks"], VGG: twin, "twin": twin}}
    asked = experiment(config)
    keys, found = Keys(asked), {}
    for cell in asked.cells:
        for seed in asked.seeds_of(cell.task):
            found[cell, seed] = keys.cell(cell.task, seed, cell.method, cell.selection).key
            if cell.method not in ("dense", "slimconv", "scratch-e"):
                found[cell, seed, "pruned"] = keys.prune(cell.task, seed, cell.method, cell.selection).key
            if cell.method in ("fgp", "thinet", "slimming", "dcp", "dcfp"):
                found[cell.task, cell.method, seed, "scores"] = keys.score(cell.task, seed, cell.method).key
            if cell.method in ("slimming", "dcp", "dcfp"):
                found[cell.task, cell.method, seed, "sparse"] = keys.own_training(cell.task, seed, cell.method).key
            found[cell.task, seed] = keys.measure(cell.task, seed).key
    assert len(found) > 150
    assert len(set(found.values())) == len(found)


def test_the_way_to_a_result_is_in_order_and_holds_each_stage_once():
    keys = Keys(experiment())
    ways = {
        f"{VGG} finetune thinet": ["data", "train", "score", "prune", "finetune"],
        f"{VGG} finetune dcp": ["data", "train", "stage", "score", "prune", "finetune"],
        f"{VGG} finetune aofp": ["data", "train", "stage", "finetune"],
        f"{VGG} scratch scratch-e": ["data", "train", "score", "prune", "train"],
        f"{VGG} train slimconv": ["data", "train"],
        f"{SEGNET} finetune dcfp": ["data", "stage", "score", "prune", "finetune"],
    }
    for name, names in ways.items():
        assert [part.name for part in stage(keys, name).way()] == names
