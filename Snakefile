# The benchmark suite as a DAG. Targets: all_tables, all_figures, report, all; partial_tables after a failure.
# Configuration: config/config.yaml (the paper), or any other with --configfile.

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


wildcard_constraints:
    dataset=one_of(EXPERIMENT.datasets),
    task=one_of(EXPERIMENT.tasks),
    seed=one_of(map(str, CONFIG.seeds)),
    method=one_of(["dense", *CONFIG.methods]),
    selection=r"[a-z][a-z-]*-[0-9][a-z0-9.-]*",


# The cells stand here too: where no rule makes one of them, Snakemake would take the tables of an earlier run for finished.
rule all_tables:
    default_target: True
    input:
        CELLS,
        TABLES,


rule all_figures:
    input:
        CELLS,
        FIGURES,


rule all:
    input:
        CELLS,
        TABLES,
        FIGURES,
        PATHS.run("report.html"),


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/own_training.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/report.smk"


# Stages of single methods, which take the place of a rule above: docs/adding-a-method.md.
for path in sorted(Path(workflow.basedir).glob("workflow/rules/baselines/*.smk")):

    include: str(path)


onstart:
    refuse_too_many_threads()
    run_lock.hold(workflow, Path(PATHS.root))
    rate_limit.lift(workflow)


onsuccess:
    print_results()


onerror:
    print_missing()
