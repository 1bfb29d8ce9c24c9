# Choose the channels that stay by their scores, and remove the others. Gradual methods do this in their own training. Only methods
# that adjust the weights that stay (`repair`) look at images here, and take a GPU.


rule prune:
    input:
        data=data_of,
        weights=scored_by,
        scores=PATHS.method("scores.safetensors"),
    output:
        plan=PATHS.cell("plan.json"),
        weights=PATHS.cell("pruned.safetensors"),
    log:
        PATHS.run("logs", "prune", "{task}-seed{seed}-{method}-{selection}.log"),
    wildcard_constraints:
        method=through("prune"),
    group:
        "cell"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=lambda wildcards: GPU if repairs(wildcards) else 0,
        gpu_mem_mb=lambda wildcards: gpu_mem_mb(wildcards) if repairs(wildcards) else 0,
    params:
        on_gpu=lambda wildcards: "$ON_GPU" if repairs(wildcards) else "",
        settings=lambda wildcards: SETTINGS.prune(wildcards.task, wildcards.method, wildcards.selection),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.prune(wildcards.task, wildcards.seed, wildcards.method, wildcards.selection).key,
    message:
        "prune {wildcards.task} seed {wildcards.seed} {wildcards.method} {wildcards.selection}"
    shell:
        "FGP_KEY={params.key} {params.on_gpu} python -m fgp prune --data {input.data} --weights {input.weights} --scores {input.scores}"
        " {params.settings} --seed {wildcards.seed} --device {params.device}"
        " --write-plan {output.plan} --out {output.weights} > {log} 2>&1"
