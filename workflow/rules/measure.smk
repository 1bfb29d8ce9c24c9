# Latency takes every core, so that nothing runs beside it. The tasks of the class sweep are not measured.


rule latency:
    input:
        data=lambda wildcards: COMMANDS.data_file(wildcards.task),
        weights=lambda wildcards: COMMANDS.networks(wildcards.task, wildcards.seed).values(),
    output:
        f"{ROOT}/{{task}}/seed{{seed}}/latency.json",
    log:
        f"{ROOT}/logs/latency/{{task}}-seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/latency/{{task}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores or 1
    resources:
        gpu=GPU,
    params:
        flags=lambda wildcards: COMMANDS.latency(wildcards.task, wildcards.seed),
        code=codehash.of("fgp.cli.measure"),
    message:
        "measure {wildcards.task} seed {wildcards.seed}"
    shell:
        "python -m fgp measure --data {input.data} {params.flags} --out {output} > {log} 2>&1"


rule collect:
    input:
        metrics=[f"{ROOT}/{folder}/metrics.json" for folder in GRID.folders()],
        latency=[f"{COMMANDS.folder(task, seed)}/latency.json" for task in CONFIG.tasks for seed in GRID.seeds_of(task)],
        config=f"{ROOT}/config.yaml",
    output:
        f"{ROOT}/cells.csv",
    log:
        f"{ROOT}/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        code=codehash.of("fgp_workflow.collect"),
    message:
        "collect the cells"
    shell:
        "python -m fgp_workflow.collect --config {input.config} --out {output} > {log} 2>&1"


rule resolved_config:
    output:
        f"{ROOT}/config.yaml",
    log:
        f"{ROOT}/logs/config.log",
    conda:
        "../../environment.yml"
    params:
        text=resolved_config(),
    message:
        "write the resolved configuration"
    shell:
        "printf %s {params.text:q} > {output} 2> {log}"
