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
        params:
            flags=lambda wildcards, method=method: COMMANDS.own_stage(wildcards.task, wildcards.seed, method),
            files=lambda wildcards, output: " ".join(f"--{key} {path}" for key, path in output.items()),
            code=codehash.of("fgp.cli.stage", method_module(method)),
        message:
            f"sparse training {{wildcards.task}} seed {{wildcards.seed}} {method}"
        shell:
            "python -m fgp stage --data {input.data} {params.flags} {params.files} > {log} 2>&1"
