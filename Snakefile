# The benchmark suite as a DAG. Targets: all_tables, all_figures, report, all.
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
