# The configuration with every default, and the table of all cells, each of which must be one of this configuration.


rule configuration:
    output:
        PATHS.run("config.yaml"),
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
        "printf %s {params.text:q} > {output} 2> {log}"


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
        present=Keys(EXPERIMENT).results() if CONFIG.accept_code else "",  # the table says which cells other code made
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
