rule data:
    output:
        f"{ROOT}/data/{{dataset}}.safetensors",
    log:
        f"{ROOT}/logs/data/{{dataset}}.log",
    benchmark:
        f"{ROOT}/benchmarks/data/{{dataset}}.tsv"
    conda:
        "../../environment.yml"
    params:
        command=lambda wildcards: COMMANDS.data(wildcards.dataset),
        code=lambda wildcards: CODES.data(wildcards.dataset),
    message:
        "prepare {wildcards.dataset}"
    shell:
        "FGP_CODE={params.code} python -m fgp {params.command} > {log} 2>&1"
