rule dense:
    input:
        data=lambda wildcards: COMMANDS.data_file(wildcards.task),
    output:
        weights=f"{ROOT}/{{task}}/seed{{seed}}/dense/unpruned/model.safetensors",
        metrics=f"{ROOT}/{{task}}/seed{{seed}}/dense/unpruned/metrics.json",
        curve=f"{ROOT}/{{task}}/seed{{seed}}/dense/unpruned/curve.csv",
    log:
        f"{ROOT}/logs/dense/{{task}}-seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/dense/{{task}}-seed{{seed}}.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=GPU,
    params:
        flags=lambda wildcards: COMMANDS.train(wildcards.task, wildcards.seed),
        code=codehash.of("fgp.cli.train"),
    message:
        "train {wildcards.task} seed {wildcards.seed}"
    shell:
        "python -m fgp train --data {input.data} {params.flags}"
        " --out {output.weights} --metrics {output.metrics} --curve {output.curve} > {log} 2>&1"
