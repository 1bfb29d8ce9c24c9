rule score:
    input:
        data=lambda wildcards: COMMANDS.data_file(wildcards.task),
        weights=lambda wildcards: COMMANDS.dense_weights(wildcards.task, wildcards.method, wildcards.seed),
    output:
        f"{ROOT}/{{task}}/seed{{seed}}/{{method}}/scores.safetensors",
    log:
        f"{ROOT}/logs/score/{{task}}-seed{{seed}}-{{method}}.log",
    benchmark:
        f"{ROOT}/benchmarks/score/{{task}}-seed{{seed}}-{{method}}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
    params:
        flags=lambda wildcards: COMMANDS.score(wildcards.method, wildcards.seed),
        code=lambda wildcards: codehash.of("fgp.cli.score", method_code(wildcards.method)),
    message:
        "score {wildcards.task} seed {wildcards.seed} {wildcards.method}"
    shell:
        "python -m fgp score --data {input.data} --weights {input.weights} {params.flags} --out {output} > {log} 2>&1"
