# The configuration with every default, and the table of all cells, each of which must be one of this configuration.


# MARK is an empty file whose name is a hash of the configuration and of all keys. The targets ask for it, so that after a change of
# either the cells are collected and checked again, also in a folder that came without Snakemake's records of how it was made.
rule configuration:
    output:
        config=PATHS.run("config.yaml"),
        mark=MARK,
    log:
        PATHS.run("logs", "configuration.log"),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        text=resolved(CONFIG),
    message:
        "write the resolved configuration"
    shell:
        "printf %s {params.text:q} 2> {log} > {output.config}; touch {output.mark}"


rule collect:
    input:
        metrics=CELLS,
        latency=PATHS.latencies(EXPERIMENT),
        config=PATHS.run("config.yaml"),
    output:
        PATHS.run("cells.csv"),
    log:
        PATHS.run("logs", "collect.log"),
    conda:
        "../../environment.yml"
    params:
        accept="--accept-code" if CONFIG.accept_code else "",
        code=KEYS.code("fgp_workflow.collect"),
    message:
        "collect the cells"
    shell:
        "python -m fgp_workflow.collect --config {input.config} {params.accept} --out {output} > {log} 2>&1"


# Tables and figures of the cells that there are, the others marked. No output: it is made anew whenever it is asked for.
rule partial_tables:
    input:
        config=PATHS.run("config.yaml"),
    log:
        PATHS.run("logs", "partial_tables.log"),
    conda:
        "../../environment.yml"
    params:
        folder=PATHS.run("partial"),
        accept="--accept-code" if CONFIG.accept_code else "",
    message:
        "tables and figures of what there is, in {params.folder}"
    shell:
        "python -m fgp_workflow.partial --config {input.config} {params.accept} --out-dir {params.folder} > {log} 2>&1"
