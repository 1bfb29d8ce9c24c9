# Sparse-training methods train a network of their own, from random weights or on from the dense one; some score meanwhile.


for method in GRID.methods_of_kind("sparse-training"):

    rule:
        name:
            f"sparse-{method}"
        input:
            lambda wildcards, method=method: COMMANDS.own_inputs(wildcards.task, wildcards.seed, method),
            data=lambda wildcards: COMMANDS.data_file(wildcards.task),
        output:
            **COMMANDS.own_outputs(method),
        log:
            f"{ROOT}/logs/sparse/{{task}}-seed{{seed}}-{method}.log",
        benchmark:
            f"{ROOT}/benchmarks/sparse/{{task}}-seed{{seed}}-{method}.tsv"
        priority: 10
        conda:
            "../../../environment.yml"
        threads: CONFIG.threads
        resources:
            gpu=GPU,
            gpu_mem_mb=lambda wildcards: gpu_mem_mb(wildcards.task),
        params:
            command=lambda wildcards, method=method: COMMANDS.own_stage(wildcards.task, wildcards.seed, method),
            code=lambda wildcards, method=method: CODES.stage(wildcards.task, method),
        message:
            f"sparse training {{wildcards.task}} seed {{wildcards.seed}} {method}"
        shell:
            "FGP_CODE={params.code} $ON_GPU python -m fgp {params.command} > {log} 2>&1"
