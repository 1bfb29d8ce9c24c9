# The benchmark suite as a DAG. Targets: all_tables, all_figures, report, all; partial_tables after a failure.
# Configuration: config/config.yaml (the paper), or any other with --configfile.

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


wildcard_constraints:
    dataset="|".join(map(re.escape, GRID.datasets)),
    task="|".join(map(re.escape, GRID.tasks)),
    seed="|".join(map(str, CONFIG.seeds)),
    method="|".join(map(re.escape, CONFIG.methods)),


rule all_tables:
    default_target: True
    input:
        TABLES,


rule all_figures:
    input:
        FIGURES,


rule report:
    input:
        f"{ROOT}/report.html",


rule all:
    input:
        TABLES,
        FIGURES,
        f"{ROOT}/report.html",


# Tables and figures of the cells that there are, the others marked. No output: it is made anew whenever it is asked for.
rule partial_tables:
    input:
        config=f"{ROOT}/config.yaml",
    log:
        f"{ROOT}/logs/partial_tables.log",
    conda:
        "environment.yml"
    params:
        commands=lambda wildcards, input: " && ".join(partial_commands(input.config)),
    message:
        f"tables and figures of what there is, in {PARTIAL}"
    shell:
        "({params.commands}) > {log} 2>&1"


include: "workflow/rules/data.smk"
include: "workflow/rules/dense.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


for path in sorted(Path(workflow.basedir).glob("workflow/rules/baselines/*.smk")):

    include: str(path)


onsuccess:
    print_results()


onerror:
    print_missing()
