"""What an edit of the code or the configuration makes Snakemake run again, in a copy of the project with a finished run."""

import contextlib
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
VGG, RESNET = "digits-vgg16", "digits-resnet50"
CONFIG = {
    "run": "tiny",
    "device": "cpu",
    "seeds": [0],
    "datasets": {"digits32": {"source": "digits", "size": 32}, "small": {"source": "folder:small", "size": 16}},
    "recipes": {
        "long": {"epochs": 2, "lr": 0.05},
        "short": {"epochs": 1, "lr": 0.05},
    },
    "tasks": {
        VGG: {
            **{"dataset": "digits32", "network": "vgg16", "width": 0.0625, "recipe": "long", "finetune": "short"},
            **{"k": {"FGP+": 0.4}, "budgets": {"FGP+": 0.5}},
            "paper": {"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"},
        },
        RESNET: {
            **{"dataset": "small", "network": "resnet50", "width": 0.0625, "recipe": "long", "finetune": "short"},
            **{"budgets": {"FGP+": 0.5}, "methods": ["l1"]},
            "paper": {"table": "T1", "backbone": "ResNet-50", "column": "acc_cifar10"},
        },
    },
    "methods": ["fgp", "l1", "thinet", "slimming", "aofp", "scratch-e"],
    "scoring": {"images": 100},
    "figures": {"fig1": {"task": VGG}, "fig3a": {"task": VGG, "k": [0.4]}},
}
MACS = "macs-0.5000"
REACH = {"dense_macs": 100, "least_macs": {"inside": {"1": 1}, "tied": {"1": 1}}}
OF_FGP = (MACS, "cumulative-0.40", "count-0.40")

# What follows a stage, from behind.
REPORT = {"report"}
DRAWN = {"figure 3a"} | REPORT
TABLES = {"table 1", "table 3"} | REPORT
CELLS = {"collect"} | DRAWN | TABLES
MAPS = {"heat_maps"} | REPORT
CONFIGURED = {"configuration"} | CELLS


def measured(task=VGG, seed=0):
    return {f"measure {task} {seed}"} | CONFIGURED


def finetuned(method, *selections, task=VGG, seed=0, rule="finetune"):
    """The last training of a method's cells, and what follows."""
    return {f"{rule} {task} {seed} {method} {selection}" for selection in selections or [MACS]} | measured(task, seed)


def pruned(method, *selections, task=VGG, seed=0):
    """The removal of channels for a method's cells, and what follows."""
    selections = selections or (OF_FGP if method == "fgp" else (MACS,))
    found = {f"prune {task} {seed} {method} {selection}" for selection in selections}
    if task == VGG and method == "fgp":
        found |= finetuned("scratch-e", rule="scratch") if MACS in selections else set()
        found |= MAPS if "cumulative-0.40" in selections else set()
    return found | finetuned(method, *selections, task=task, seed=seed)


def scored(*methods, task=VGG, seed=0):
    """The scoring of some methods, and what follows."""
    return set().union(*({f"score {task} {seed} {method}"} | pruned(method, task=task, seed=seed) for method in methods))


SPARSE = {f"sparse_training {VGG} 0 slimming sparse"} | scored("slimming")
GRADUAL = {f"gradual {VGG} 0 aofp {MACS}"} | finetuned("aofp")
ALL_PRUNED = pruned("fgp") | pruned("l1") | pruned("thinet") | pruned("slimming") | pruned("l1", task=RESNET)
ALL_TUNED = (
    finetuned("fgp", *OF_FGP) | finetuned("l1") | finetuned("thinet") | finetuned("slimming") | finetuned("aofp")
    | finetuned("l1", task=RESNET)
)  # fmt: skip
DENSE_VGG = {f"train {VGG} 0 dense unpruned"} | scored("fgp", "l1", "thinet") | GRADUAL | MAPS | measured()
DENSE_RESNET = {f"train {RESNET} 0 dense unpruned"} | scored("l1", task=RESNET)
TRAINED = DENSE_VGG | DENSE_RESNET | SPARSE | finetuned("scratch-e", rule="scratch")
DATA_VGG = {"data digits32", f"budgets {VGG}"} | (TRAINED - DENSE_RESNET) | measured()
DATA_RESNET = {"data small", f"budgets {RESNET}"} | DENSE_RESNET
EVERYTHING = DATA_VGG | DATA_RESNET
SCORED = scored("fgp", "l1", "thinet", "slimming") | scored("l1", task=RESNET)
OF_SEED_1 = {re.sub(r" 0\b(?!\.)", " 1", job) for job in TRAINED - MAPS} | REPORT
OWN_CODE = {
    "baselines/l1.py": scored("l1") | scored("l1", task=RESNET) | TABLES,
    "baselines/thinet.py": scored("thinet") | TABLES,
    "baselines/slimming.py": SPARSE | TABLES,
    "baselines/aofp.py": GRADUAL | TABLES,
    "baselines/scratch_e.py": TABLES,
    "baselines/cap.py": set(),
}
CODE = {
    "fgp/train/loop.py": TRAINED,
    "fgp/train/augment.py": TRAINED,
    "fgp/train/hooks.py": TRAINED,
    "fgp/train/gradual.py": GRADUAL,
    "fgp/evaluate.py": TRAINED,
    "fgp/latency.py": measured(VGG) | measured(RESNET),
    "fgp/cli/finetune.py": ALL_TUNED,
    "fgp/cli/prune.py": ALL_PRUNED,
    "fgp/cli/score.py": SCORED,
    "fgp/cli/budgets.py": set(),
    "fgp/cli/measure.py": measured(VGG) | measured(RESNET),
    "fgp/cli/rerun.py": set(),
    "fgp/scoring/engine.py": scored("fgp") | MAPS,
    "fgp/scoring/formulas.py": scored("fgp"),
    "fgp/scoring/checks.py": scored("fgp", "thinet") | SPARSE | MAPS,
    "fgp/scoring/maps.py": MAPS | DRAWN,
    "fgp/scoring/contributions.py": scored("thinet") | TABLES,
    "fgp/select.py": ALL_PRUNED,
    "fgp/surgery.py": scored("thinet") | ALL_PRUNED | GRADUAL,
    "fgp/data/digits.py": DATA_VGG,
    "fgp/data/folders.py": DATA_RESNET,
    "fgp/data/camvid.py": set(),
    "fgp/data/preparing.py": EVERYTHING,
    "fgp/models/vgg.py": (TRAINED - DENSE_RESNET) | measured(),
    "fgp/models/resnet.py": DENSE_RESNET,
    "fgp/models/segnet.py": set(),
    "workflow/fgp_workflow/tables.py": TABLES,
    "workflow/fgp_workflow/collect.py": CELLS,
    "workflow/fgp_workflow/proof.py": CELLS,
    "workflow/fgp_workflow/figures/fig3a.py": DRAWN | MAPS,
    "workflow/fgp_workflow/gpu_slot.py": set(),
    "workflow/report/fig1.rst": REPORT,
    "config/printed/tables.yaml": DRAWN | TABLES,
    "README.md": set(),
} | OWN_CODE
OF_K = {"cumulative-0.30", "count-0.30"}
SETTINGS = {
    "recipes/short/lr": (0.01, ALL_TUNED | GRADUAL | CONFIGURED),
    "recipes/short/epochs": (3, ALL_TUNED | GRADUAL | CONFIGURED),
    "recipes/long/weight_decay": (0.1, TRAINED | CONFIGURED),
    f"tasks/{VGG}/width": (0.125, {f"budgets {VGG}"} | (TRAINED - DENSE_RESNET) | measured() | CONFIGURED),
    f"tasks/{VGG}/k/FGP+": (0.3, pruned("fgp", *OF_K) | MAPS | CONFIGURED),
    f"tasks/{RESNET}/budgets/FGP*": (
        0.3, pruned("l1", "macs-0.3000", task=RESNET) | CONFIGURED,
    ),
    f"tasks/{VGG}/options": ({"slimming": {"strength": 0.01}}, SPARSE | CONFIGURED),
    f"tasks/{VGG}/seeds": ([0], CONFIGURED),
    "seeds": ([0, 1], OF_SEED_1 | CONFIGURED),
    "methods": (["fgp", "l1", "thinet", "slimming", "aofp", "scratch-e", "fpgm"], scored("fpgm") | CONFIGURED),
    "methods/2": ("fpgm", scored("fpgm") | CONFIGURED),
    f"tasks/{VGG}/without": (["thinet"], measured() | CONFIGURED),
    "scoring/images": (50, SCORED | CONFIGURED),
    "latency/seconds": (0.5, measured(VGG) | measured(RESNET) | CONFIGURED),
    "datasets/digits32/train_limit": (500, DATA_VGG | CONFIGURED),
    "datasets/digits32/download": (True, CONFIGURED),
    "figures/fig1/channels": (4, MAPS | CONFIGURED),
    "figures/fig3a/k": ([0.8], pruned("fgp", "cumulative-0.80") | CONFIGURED),
    "threads": (2, set()),
    "gpu_slots": (2, set()),
    f"tasks/{VGG}/gpu_mem_mb": (9000, set()),
}  # fmt: skip


def plan(folder, out, words, data_root):
    """Run Snakemake of a copied project in this process and write what it prints to a file."""
    os.chdir(folder)
    os.environ["FGP_DATA"] = str(data_root)
    sys.path[:0] = [str(folder), str(folder / "workflow")]
    from snakemake import cli

    with open(out, "w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            cli.main([*words, "--workflow-profile", "none", "--cores", "1", "--configfile", "config/tiny.yaml"])
        except SystemExit as stop:
            sys.exit(stop.code)


class Project:
    """A copy of the project's files with the outputs of a run that Snakemake takes for finished."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data_root = folder, folder / "no data"
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["snakemake.cli", "pydantic"])
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("fgp", "baselines", "workflow"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("Snakefile", "environment.yml", "README.md"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "config/printed", folder / "config/printed")
        self.configure(CONFIG)
        self.touch()

    def touch(self):
        """Let Snakemake take everything for finished, as the configuration, the code and the data are now."""
        for row in self._summary():
            path = self.folder / row[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text('{"provenance": {"key": ""}}')
        self._snakemake("all", "--touch", "--forceall")

    def finish(self):
        """Let the outputs hold the keys that their rules would write into them now."""
        from fgp.files import write_sealed  # here, because the processes of `plan` import this module before the copied project

        shown = self._snakemake("all", "-n", "--forceall", "--printshellcmds", "--logger", "fgp")
        for key, words in re.findall(r"FGP_KEY=(\S+) (.+)", shown):
            for output in re.findall(r"--(?:out|metrics) (\S+)", words):
                write_sealed(self.folder / output, {"provenance": {"key": key}, **REACH})
        self.touch()

    def configure(self, config):
        (self.folder / "config/tiny.yaml").write_text(yaml.safe_dump(config))

    def jobs(self):
        """Return the jobs that Snakemake would run."""
        return {self._name(row[0], row[2]) for row in self._summary() if row[5] == "update pending"}

    @staticmethod
    def _name(output, rule):
        """The rule and what its output is of: data set, task, seed, method and selection, or the number of a table or figure."""
        _, _, *parts = output.split("/")
        words = [Path(part).stem if "." in part and not part.startswith(("macs", "c")) else part for part in parts]
        if rule in ("table", "figure"):
            return f"{rule} {words[-1].removeprefix('table').removeprefix('fig')}"
        if rule == "data":
            return f"data {words[-1]}"
        if len(parts) < 2 or ("/seed" not in output and rule != "budgets"):
            return rule
        return " ".join([rule, parts[0], *(part.removeprefix("seed") for part in parts[1:-1])])

    def _summary(self):
        lines = self._snakemake("all", "--summary").splitlines()
        header = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
        return [line.split("\t") for line in lines[header + 1 :] if line.count("\t") == 5]

    def _snakemake(self, *words):
        out = self.folder / "out"
        process = self._processes.Process(target=plan, args=(self.folder, out, words, self.data_root))
        process.start()
        process.join(100)
        assert process.exitcode == 0, out.read_text()
        return out.read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    assert made.jobs() == set()
    return made


@contextlib.contextmanager
def edited(path, text):
    before, status = path.read_text(), path.stat()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def changed(config, key, value):
    """Return a configuration with another value at `key`, a path with slashes."""
    first, _, rest = key.partition("/")
    if isinstance(config, list):
        return [*config[: int(first)], value, *config[int(first) + 1 :]]
    return config | {first: changed(config.get(first, {}), rest, value) if rest else value}


@pytest.mark.parametrize("file", CODE)
def test_an_edit_of_the_code_reruns_what_runs_it_and_what_follows(project, file):
    path = project.folder / file
    with edited(path, path.read_text() + "\n\nEDITED = 1\n"):
        assert project.jobs() == CODE[file]


@pytest.mark.parametrize("file", ["fgp/errors.py", "fgp/select.py", "fgp/train/loop.py", "baselines/l1.py"])
def test_a_comma_in_a_docstring_a_comment_and_a_line_break_rerun_nothing(project, file):
    path = project.folder / file
    text = path.read_text().replace('"""', '"""Edited, ', 1).replace("    return ", "    return (\n        ", 1)
    text = text.replace("return (\n        ", "return ", 1) + "\n\n\n# edited\n"
    assert text != path.read_text()
    with edited(path, text):
        assert project.jobs() == set()


def test_other_files_in_the_data_root_prepare_the_data_again(project, tmp_path):
    image = tmp_path / "small/train/cat/1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"an image")
    none = project.data_root
    project.data_root = tmp_path
    try:
        assert project.jobs() == DATA_RESNET
        project.touch()
        assert project.jobs() == set()
        os.utime(image, (1, 1))
        assert project.jobs() == DATA_RESNET
        os.utime(image, (2, 2))
        project.touch()
        assert project.jobs() == set()
        (image.parent / "2.png").write_bytes(b"another")
        assert project.jobs() == DATA_RESNET
    finally:
        project.data_root = none
        project.touch()


@pytest.mark.parametrize("key", SETTINGS)
def test_an_edit_of_the_configuration_reruns_what_it_concerns(project, key):
    value, expected = SETTINGS[key]
    config = changed(CONFIG, key, value)
    assert config != CONFIG
    with edited(project.folder / "config/tiny.yaml", yaml.safe_dump(config)):
        assert project.jobs() == expected


def test_accepted_code_reruns_only_what_says_that_it_was_accepted(project):
    path, config = project.folder / "fgp/evaluate.py", project.folder / "config/tiny.yaml"
    with edited(config, yaml.safe_dump(CONFIG | {"accept_code": True})):
        project.finish()
        assert project.jobs() == set()
        with edited(path, path.read_text() + "\n\nEDITED = 1\n"):
            assert project.jobs() == CONFIGURED
        assert project.jobs() == set()
    project.touch()


def test_results_without_records_of_how_they_were_made_are_checked_after_every_change(project):
    records, config, code = (project.folder / name for name in (".snakemake/metadata", "config/tiny.yaml", "fgp/evaluate.py"))
    records.rename(project.folder / "records")
    try:
        assert project.jobs() == set()
        with edited(config, yaml.safe_dump(changed(CONFIG, "recipes/short/lr", 0.01))):
            assert project.jobs() == CONFIGURED
        with edited(code, code.read_text() + "\n\nEDITED = 1\n"):
            assert project.jobs() == CONFIGURED
    finally:
        (project.folder / "records").rename(records)


def test_a_method_whose_rule_is_missing_is_told_though_tables_of_an_earlier_run_are_there(project):
    config, method = project.folder / "config/tiny.yaml", project.folder / "baselines/toy.py"
    facts = 'from fgp.methods import Method\n\nMETHOD = Method(label="Toy", own_rule="score")\n'
    method.write_text(f'"""Toy: none. Paper: none. Source: none."""\n\n{facts}')
    try:
        with edited(config, yaml.safe_dump(CONFIG | {"methods": [*CONFIG["methods"], "toy"]})):
            for target in ("all_tables", "all_figures", "all"):
                with pytest.raises(AssertionError, match=r"Missing input files for rule prune:[^?]*toy/scores\.safetensors"):
                    project._snakemake(target, "--dry-run")
    finally:
        method.unlink()
