# One rule a batch of cells: cells of one task that share a process (`cells_per_job`), for any seed.
# Each cell: plan, prune, fine-tune; of a gradual method, prune and fine-tune; of a train-from-scratch control, prune by another
# method's plan and train; of an architecture, train.


for batch in GRID.batches():

    rule:
        name:
            f"finetune-{batch.name}"
        input:
            lambda wildcards, batch=batch: COMMANDS.sources(batch, wildcards.seed),
            data=COMMANDS.data_file(batch.task),
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
            gpu_mem_mb=gpu_mem_mb(batch.task),
        params:
            command=lambda wildcards, batch=batch: COMMANDS.cells(batch, wildcards.seed),
            code=CODES.cells(batch),
        message:
            f"fine-tune {batch.task} seed {{wildcards.seed}} {batch.label}"
        shell:
            "FGP_CODE={params.code} $ON_GPU python -m fgp {params.command} > {log} 2>&1"
