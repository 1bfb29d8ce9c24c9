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
    threads: CONFIG.latency.threads if workflow.remote_exec else workflow.resource_settings.cores or CONFIG.latency.threads
    resources:
        gpu=every_gpu(),
        gpu_mem_mb=lambda wildcards: gpu_mem_mb(wildcards.task),
    params:
        command=lambda wildcards: COMMANDS.latency(wildcards.task, wildcards.seed),
        code=lambda wildcards: CODES.latency(wildcards.task),
    message:
        "measure {wildcards.task} seed {wildcards.seed}"
    shell:
        "FGP_CODE={params.code} $ALONE_ON_GPU python -m fgp {params.command} > {log} 2>&1"


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
        code=CODES.reading("fgp_workflow.collect"),
    message:
        "collect the cells"
    shell:
        "python -m fgp_workflow.collect --config {input.config} --out {output} > {log} 2>&1"


rule resolved_config:
    output:
        f"{ROOT}/config.yaml",
    log:
        f"{ROOT}/logs/config.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        text=resolved_config(),
    message:
        "write the resolved configuration"
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} || {{ rm -f {output}.part; exit 1; }}"
