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
        gpu_mem_mb=lambda wildcards: gpu_mem_mb(wildcards.task),
    params:
        command=lambda wildcards: COMMANDS.train(wildcards.task, wildcards.seed),
        code=lambda wildcards: CODES.train(wildcards.task),
    message:
        "train {wildcards.task} seed {wildcards.seed}"
    shell:
        "FGP_CODE={params.code} $ON_GPU python -m fgp {params.command} > {log} 2>&1"
