# Methods that train a network of their own before channels are selected, from random weights or on from the dense network.


rule sparse_training:
    input:
        data=data_of,
        budgets=PATHS.budgets,
        start=start_of,
    output:
        weights=PATHS.method("sparse", "model.safetensors"),
        curve=PATHS.method("sparse", "curve.csv"),
        metrics=PATHS.method("sparse", "metrics.json"),
    log:
        PATHS.run("logs", "sparse_training", "{task}-seed{seed}-{method}.log"),
    benchmark:
        PATHS.run("benchmarks", "sparse_training", "{task}-seed{seed}-{method}.tsv")
    wildcard_constraints:
        method=through("sparse_training"),
    priority: 10
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        start=lambda wildcards, input: f"--weights {input.start}" if input.start else "",
        settings=lambda wildcards: SETTINGS.own_training(wildcards.task, wildcards.method, "sparse"),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.own_training(wildcards.task, wildcards.seed, wildcards.method).key,
    message:
        "sparse training {wildcards.task} seed {wildcards.seed} {wildcards.method}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp stage --data {input.data} {params.start} {params.settings}"
        " --seed {wildcards.seed} --device {params.device}"
        " --out {output.weights} --curve {output.curve} --metrics {output.metrics} > {log} 2>&1"


# Gradual methods prune while they train, once for each number of MACs to reach.
rule gradual:
    input:
        data=data_of,
        budgets=PATHS.budgets,
        start=start_of,
    output:
        plan=PATHS.cell("plan.json"),
        weights=PATHS.cell("pruned.safetensors"),
        curve=PATHS.cell("gradual_curve.csv"),
    log:
        PATHS.run("logs", "gradual", "{task}-seed{seed}-{method}-{selection}.log"),
    benchmark:
        PATHS.run("benchmarks", "gradual", "{task}-seed{seed}-{method}-{selection}.tsv")
    wildcard_constraints:
        method=through("gradual"),
    priority: 10
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        start=lambda wildcards, input: f"--weights {input.start}" if input.start else "",
        settings=lambda wildcards: SETTINGS.own_training(wildcards.task, wildcards.method, wildcards.selection),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.prune(wildcards.task, wildcards.seed, wildcards.method, wildcards.selection).key,
    message:
        "prune while training {wildcards.task} seed {wildcards.seed} {wildcards.method} {wildcards.selection}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp stage --data {input.data} {params.start} {params.settings}"
        " --seed {wildcards.seed} --device {params.device}"
        " --out {output.weights} --plan {output.plan} --curve {output.curve} > {log} 2>&1"
