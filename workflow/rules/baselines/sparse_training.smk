# Sparse-training methods train their own dense network, with their regulariser in the loss.


rule sparse:
    input:
        data=lambda wildcards: COMMANDS.data_file(wildcards.task),
    output:
        weights=f"{ROOT}/{{task}}/seed{{seed}}/{{method}}/sparse/model.safetensors",
        metrics=f"{ROOT}/{{task}}/seed{{seed}}/{{method}}/sparse/metrics.json",
        curve=f"{ROOT}/{{task}}/seed{{seed}}/{{method}}/sparse/curve.csv",
    log:
        f"{ROOT}/logs/sparse/{{task}}-seed{{seed}}-{{method}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sparse/{{task}}-seed{{seed}}-{{method}}.tsv"
    priority: 10
    conda:
        "../../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
    params:
        flags=lambda wildcards: COMMANDS.train(wildcards.task, wildcards.seed, wildcards.method, "sparse"),
        code=lambda wildcards: codehash.of("fgp.cli.train", method_code(wildcards.method)),
    message:
        "sparse training {wildcards.task} seed {wildcards.seed} {wildcards.method}"
    shell:
        "python -m fgp train --data {input.data} {params.flags}"
        " --out {output.weights} --metrics {output.metrics} --curve {output.curve} > {log} 2>&1"
