# Networks from random weights: the dense network of a task and seed, and the architectures that a method trains in place of it.


rule train:
    input:
        data=data_of,
        budgets=PATHS.budgets,
    output:
        weights=PATHS.method("unpruned", "model.safetensors"),
        curve=PATHS.method("unpruned", "curve.csv"),
        metrics=PATHS.method("unpruned", "metrics.json"),
    log:
        PATHS.run("logs", "train", "{task}-seed{seed}-{method}.log"),
    benchmark:
        PATHS.run("benchmarks", "train", "{task}-seed{seed}-{method}.tsv")
    wildcard_constraints:
        method=one_of(["dense", *EXPERIMENT.methods_through("train")]),
    priority: 10
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        settings=lambda wildcards: SETTINGS.train(wildcards.task, wildcards.method),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.train(wildcards.task, wildcards.seed, wildcards.method).key,
    message:
        "train {wildcards.task} seed {wildcards.seed} {wildcards.method}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp train --data {input.data} {params.settings}"
        " --seed {wildcards.seed} --device {params.device}"
        " --out {output.weights} --curve {output.curve} --metrics {output.metrics} > {log} 2>&1"


# Controls: the pruned architecture of another method, trained from random weights.
rule scratch:
    input:
        data=data_of,
        architecture=lambda wildcards: PATHS.cell("pruned.safetensors").format(
            **(dict(wildcards) | {"method": facts(wildcards.method).plan_of})
        ),
    output:
        weights=PATHS.cell("model.safetensors"),
        curve=PATHS.cell("curve.csv"),
        metrics=PATHS.cell("metrics.json"),
    log:
        PATHS.run("logs", "scratch", "{task}-seed{seed}-{method}-{selection}.log"),
    benchmark:
        PATHS.run("benchmarks", "scratch", "{task}-seed{seed}-{method}-{selection}.tsv")
    wildcard_constraints:
        method=through("scratch"),
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        gpu_mem_mb=gpu_mem_mb,
    params:
        settings=lambda wildcards: SETTINGS.scratch(wildcards.task, wildcards.method, wildcards.selection),
        device=CONFIG.device,
        key=lambda wildcards: KEYS.cell(wildcards.task, wildcards.seed, wildcards.method, wildcards.selection).key,
    message:
        "train {wildcards.task} seed {wildcards.seed} {wildcards.method} {wildcards.selection}"
    shell:
        "FGP_KEY={params.key} $ON_GPU python -m fgp train --data {input.data} --architecture {input.architecture} {params.settings}"
        " --seed {wildcards.seed} --device {params.device}"
        " --out {output.weights} --curve {output.curve} --metrics {output.metrics} > {log} 2>&1"
