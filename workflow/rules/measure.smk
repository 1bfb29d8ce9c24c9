# Latency of every network of a task and seed, in one session that takes every core, so that nothing runs beside it and the numbers
# compare. It is no part of a cell's metrics: another method measures anew and leaves the cells alone. The class sweep is not measured.


rule measure:
    input:
        data=data_of,
        weights=lambda wildcards: [
            PATHS.of_seed(cell.path, "model.safetensors").format(**wildcards) for cell in EXPERIMENT.cells_of(wildcards.task)
        ],
    output:
        PATHS.of_seed("latency.json"),
    log:
        PATHS.run("logs", "measure", "{task}-seed{seed}.log"),
    benchmark:
        PATHS.run("benchmarks", "measure", "{task}-seed{seed}.tsv")
    conda:
        "../../environment.yml"
    threads: CONFIG.latency.threads if workflow.remote_exec else workflow.resource_settings.cores or CONFIG.latency.threads
    resources:
        gpu=GPU * (workflow.global_resources.get("gpu").value or 1),
        gpu_mem_mb=gpu_mem_mb,
    params:
        networks=lambda wildcards, input: shlex.join(
            f"{cell.path}={weights}" for cell, weights in zip(EXPERIMENT.cells_of(wildcards.task), input.weights)
        ),
        settings=SETTINGS.measure(),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.measure(wildcards.task, wildcards.seed).key,
    message:
        "measure {wildcards.task} seed {wildcards.seed}"
    shell:
        "FGP_KEY={params.key} $ALONE_ON_GPU python -m fgp measure --data {input.data} --weights {params.networks} {params.settings}"
        " --device {params.device} --out {output} > {log} 2>&1"
