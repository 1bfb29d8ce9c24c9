# Score the channels of a trained network: the dense one, or that of a method's own sparse training.


rule score:
    input:
        data=data_of,
        weights=scored_by,
    output:
        PATHS.method("scores.safetensors"),
    log:
        PATHS.run("logs", "score", "{task}-seed{seed}-{method}.log"),
    benchmark:
        PATHS.run("benchmarks", "score", "{task}-seed{seed}-{method}.tsv")
    wildcard_constraints:
        method=through("score"),
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        settings=lambda wildcards: SETTINGS.score(wildcards.task, wildcards.method),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.score(wildcards.task, wildcards.seed, wildcards.method).key,
    message:
        "score {wildcards.task} seed {wildcards.seed} {wildcards.method}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp score --data {input.data} --weights {input.weights} {params.settings}"
        " --seed {wildcards.seed} --device {params.device} --out {output} > {log} 2>&1"
