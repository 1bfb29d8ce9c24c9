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
        params:
            flags=lambda wildcards, method=method: COMMANDS.own_stage(wildcards.task, wildcards.seed, method, wildcards.selection),
            files=lambda wildcards, output: " ".join(f"--{key} {path}" for key, path in output.items()),
            code=codehash.of("fgp.cli.stage", method_module(method)),
        message:
            f"gradual pruning {{wildcards.task}} seed {{wildcards.seed}} {method} {{wildcards.selection}}"
        shell:
            "python -m fgp stage --data {input.data} {params.flags} {params.files} > {log} 2>&1"
