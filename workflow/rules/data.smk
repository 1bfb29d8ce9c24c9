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
        flags=lambda wildcards: COMMANDS.data(wildcards.dataset),
        code=codehash.of("fgp.cli.data"),
    message:
        "prepare {wildcards.dataset}"
    shell:
        "python -m fgp data {params.flags} --out {output} > {log} 2>&1"
