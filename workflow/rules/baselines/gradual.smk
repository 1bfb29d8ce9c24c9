# Gradual methods prune while they train, once for each number of MACs to reach.


for method in GRID.methods_of_kind("gradual"):

    rule:
        name:
            f"gradual-{method}"
        input:
            lambda wildcards, method=method: COMMANDS.own_inputs(wildcards.task, wildcards.seed, method),
            data=lambda wildcards: COMMANDS.data_file(wildcards.task),
        output:
            **COMMANDS.own_outputs(method),
        log:
            f"{ROOT}/logs/gradual/{{task}}-seed{{seed}}-{method}-{{selection}}.log",
        benchmark:
            f"{ROOT}/benchmarks/gradual/{{task}}-seed{{seed}}-{method}-{{selection}}.tsv"
        wildcard_constraints:
            selection="macs-[0-9.]+",
        priority: 10
        conda:
            "../../../environment.yml"
        threads: CONFIG.threads
        resources:
            gpu=GPU,
            gpu_mem_mb=lambda wildcards: gpu_mem_mb(wildcards.task),
        params:
            command=lambda wildcards, method=method: COMMANDS.own_stage(
                wildcards.task, wildcards.seed, method, wildcards.selection
            ),
            code=lambda wildcards, method=method: CODES.stage(wildcards.task, method),
        message:
            f"gradual pruning {{wildcards.task}} seed {{wildcards.seed}} {method} {{wildcards.selection}}"
        shell:
            "FGP_CODE={params.code} $ON_GPU python -m fgp {params.command} > {log} 2>&1"
