"""New methods in a copy of the project: each is one file and one word, one with a stage of its own a file and a rule."""

import re

import pandas as pd
import pytest
from test_workflow import TINY, Project

pytestmark = pytest.mark.slow

HEADER = '''"""{label}: of this test. Paper: none. Source: this test."""

from fgp.methods import Method

METHOD = Method(label="{label}", {facts})
'''
SCORE = """

def score(model, batches, seed):
    import torch

    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    return {name: conv.weight.detach().flatten(1).amax(1).sub(conv.weight.detach().min()) for name, conv in convolutions.items()}
"""
TRAINING = """

def training():
    from fgp.train.hooks import Penalty

    return Penalty(lambda model: 1e-3 * sum(parameter.square().sum() for parameter in model.parameters()))
"""
PRUNING = """

def pruning(budget, tied=False):
    from fgp.train.gradual import Gradual

    class LastFirst(Gradual):
        def after_step(self, images, labels):
            ranked = [(leader, channel) for leader, kept in self.plan.items() for channel in reversed(kept)]
            self.remove(ranked, most=60)

    return LastFirst(budget, tied)
"""
STAGE = """

def main(weights, out):
    import torch

    import fgp
    from fgp import provenance
    from fgp.scoring.files import save_scores

    model = fgp.load(weights)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    scores = {name: torch.arange(1.0, 1 + model.get_submodule(name).out_channels) for name in names}
    spec, made = model.fgp_spec.to_dict(), provenance.collect(inputs=[weights])
    save_scores(out, scores, method="toy-stage", options={}, seconds=0.0, seed=0, spec=spec, provenance=made)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
"""
METHODS = {
    "toy": HEADER.format(label="Toy criterion", facts='needs=frozenset({"weights"})') + SCORE,
    "toy_sparse": HEADER.format(label="Toy sparse", facts='kind="sparse-training"') + TRAINING + SCORE,
    "toy_gradual": HEADER.format(label="Toy gradual", facts='kind="gradual", start="dense"') + PRUNING,
    "toy_other": HEADER.format(label="Toy other", facts='kind="architecture", networks={"vgg16": "resnet50"}'),
    "toy_scratch": HEADER.format(label="Toy scratch", facts='kind="scratch", plan_of="toy", equal="epochs"'),
    "toy_stage": HEADER.format(label="Toy stage", facts='own_rule="score"') + STAGE,
}
RULE = """
rule toy_stage:
    input:
        weights=PATHS.dense(),
    output:
        PATHS.method("scores.safetensors"),
    log:
        PATHS.run("logs", "toy_stage", "{task}-seed{seed}-{method}.log"),
    wildcard_constraints:
        method="toy-stage",
    params:
        key=lambda wildcards: KEYS.score(wildcards.task, wildcards.seed, wildcards.method).key,
    shell:
        "FGP_KEY={params.key} python -m baselines.toy_stage {input.weights} {output} > {log} 2>&1"
"""
NAMES = [name.replace("_", "-") for name in METHODS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run with one new method of each kind and one with a stage of its own; nothing of the project is edited."""
    made = Project(tmp_path_factory.mktemp("methods"))
    for name, text in METHODS.items():
        (made.folder / f"baselines/{name}.py").write_text(text)
    rules = made.folder / "workflow/rules/baselines"
    rules.mkdir(parents=True, exist_ok=True)
    (rules / "toy_stage.smk").write_text(RULE)
    task = TINY["tasks"]["digits-vgg16"] | {"k": {}}
    made.configure({**TINY, "device": "auto", "methods": ["fgp", *NAMES], "tasks": {"digits-vgg16": task}, "figures": {}})
    done = made.snakemake("--cores", "2", "--resources", "gpu=1", "all_tables")
    assert done.returncode == 0, done.stderr + done.stdout
    return made


def test_methods_of_every_kind_are_in_the_tables(project):
    cells = pd.read_csv(project.folder / "results/tiny/cells.csv").set_index("method")
    assert set(cells.index) == {"dense", "fgp", *NAMES}
    pruned = [name for name in NAMES if name != "toy-other"]
    assert cells.loc[pruned].macs_remaining_percent.between(49, 51).all()
    assert cells.loc["toy-other"].network == "resnet50"
    table = (project.folder / "results/tiny/tables/table1.md").read_text()
    assert all(re.search(rf"\| {label} ", table) for label in ("Toy criterion", "Toy sparse", "Toy scratch", "Toy stage"))
    assert all(f"| {label} [" in table for label in ("Toy gradual", "Toy other"))


def test_jobs_ran_on_the_gpus_that_there_were(project):
    assert {path.name for path in (project.folder / "locks").iterdir()} >= {"98.slot0", "98.alone"}


def test_the_stage_of_its_own_made_the_scores(project):
    from fgp.scoring.files import load_scores

    scores, about = load_scores(project.folder / "results/tiny/digits-vgg16/seed0/toy-stage/scores.safetensors")
    assert about["method"] == "toy-stage"
    assert all(values.tolist() == list(range(1, 1 + len(values))) for values in scores.values())


def test_nothing_is_left_to_do_and_an_edit_of_a_method_is_noticed(project):
    again = project.snakemake("--cores", "2", "all_tables")
    assert "Nothing to be done" in again.stderr + again.stdout
    file = project.folder / "baselines/toy_stage.py"
    before = file.read_text()
    file.write_text(before.replace("1.0, 1 +", "2.0, 2 +"))
    planned = project.snakemake("--cores", "2", "--dry-run", "all_tables").stdout
    file.write_text(before)
    assert re.search(r"\b1 +toy_stage ", planned)
    assert not re.search(r"\d +(data|train|score|gradual|sparse_training) ", planned)
