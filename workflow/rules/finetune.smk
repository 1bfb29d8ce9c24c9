# One rule a batch of cells: cells of one task and method that share a process (`cells_per_job`), for any seed.
# Each cell: plan, prune, fine-tune; or, for a train-from-scratch control, prune by another method's plan and train.


for batch in GRID.batches():

    rule:
        name:
            f"finetune-{batch.name}"
        input:
            lambda wildcards, batch=batch: COMMANDS.sources(batch, wildcards.seed),
            data=COMMANDS.data_file(batch.task),
            weights=lambda wildcards, batch=batch: COMMANDS.dense_weights(batch.task, batch.method, wildcards.seed),
        output:
            COMMANDS.results(batch),
        log:
            f"{ROOT}/logs/finetune/{batch.name}-seed{{seed}}.log",
        benchmark:
            f"{ROOT}/benchmarks/finetune/{batch.name}-seed{{seed}}.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG.threads
        resources:
            gpu=GPU,
        params:
            command=lambda wildcards, batch=batch: COMMANDS.cells(batch, wildcards.seed),
            code=codehash.of(*(f"fgp.cli.{name}" for name in COMMANDS.subcommands(batch))),
        message:
            f"fine-tune {batch.task} seed {{wildcards.seed}} {batch.label}"
        shell:
            "python -m fgp {params.command} > {log} 2>&1"
