# Fine-tune a pruned network, and evaluate it before and after.


rule finetune:
    input:
        data=data_of,
        weights=PATHS.cell("pruned.safetensors"),
    output:
        weights=PATHS.cell("model.safetensors"),
        curve=PATHS.cell("curve.csv"),
        metrics=PATHS.cell("metrics.json"),
    log:
        PATHS.run("logs", "finetune", "{task}-seed{seed}-{method}-{selection}.log"),
    benchmark:
        PATHS.run("benchmarks", "finetune", "{task}-seed{seed}-{method}-{selection}.tsv")
    wildcard_constraints:
        method=through("finetune"),
    group:
        "cell"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        settings=lambda wildcards: SETTINGS.finetune(wildcards.task, wildcards.method, wildcards.selection),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.cell(wildcards.task, wildcards.seed, wildcards.method, wildcards.selection).key,
    message:
        "fine-tune {wildcards.task} seed {wildcards.seed} {wildcards.method} {wildcards.selection}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp finetune --data {input.data} --weights {input.weights} {params.settings}"
        " --seed {wildcards.seed} --device {params.device}"
        " --out {output.weights} --curve {output.curve} --metrics {output.metrics} > {log} 2>&1"
