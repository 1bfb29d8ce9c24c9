# One rule a batch of cells: cells of one task and method that share a process (`cells_per_job`), for any seed.
# Each cell: plan, prune, fine-tune; or, for a train-from-scratch control, prune by another method's plan and train.


def batch_name(batch):
    """Rule name of a batch: task and method, and the selection where the batch is one cell."""
    parts = [batch[0].task, batch[0].method]
    return "_".join(["finetune", *parts, *([batch[0].selection] if len(batch) == 1 else [])])


def batch_inputs(batch):
    """An input function: the scores that a batch selects by, or the plans that a scratch control copies."""
    task, method = batch[0].task, batch[0].method
    facts = baselines.get(method).METHOD

    def inputs(wildcards):
        if facts.kind == "scratch":
            return [f"{COMMANDS.folder(task, wildcards.seed, facts.plan_of, cell.selection)}/plan.json" for cell in batch]
        return [f"{COMMANDS.folder(task, wildcards.seed, method)}/scores.safetensors"]

    return inputs


def batch_outputs(batch):
    """The files of every cell of a batch, with the seed as wildcard."""
    scratch = baselines.get(batch[0].method).METHOD.kind == "scratch"
    names = ["pruned.safetensors", "model.safetensors", "curve.csv", "metrics.json", *(["plan.json"] if not scratch else [])]
    return [f"{COMMANDS.folder(cell.task, '{seed}', cell.path)}/{name}" for cell in batch for name in names]


def batch_command(batch):
    """A params function: the subcommands of a batch."""
    return lambda wildcards: COMMANDS.cells(batch, wildcards.seed)


def batch_weights(batch):
    """An input function: the network that a batch prunes."""
    return lambda wildcards: COMMANDS.dense_weights(batch[0].task, batch[0].method, wildcards.seed)


for batch in GRID.batches():

    rule:
        name:
            batch_name(batch)
        input:
            batch_inputs(batch),
            data=COMMANDS.data_file(batch[0].task),
            weights=batch_weights(batch),
        output:
            batch_outputs(batch),
        params:
            command=batch_command(batch),
            code=stage_code("fgp.cli.plan", "fgp.cli.prune", "fgp.cli.finetune", "fgp.cli.train"),
        log:
            f"{ROOT}/logs/finetune/{'-'.join(dict.fromkeys([batch[0].task, batch[0].method, batch[0].selection, batch[-1].selection]))}-seed{{seed}}.log",
        benchmark:
            f"{ROOT}/benchmarks/finetune/{'-'.join(dict.fromkeys([batch[0].task, batch[0].method, batch[0].selection, batch[-1].selection]))}-seed{{seed}}.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG.threads
        resources:
            gpu=GPU,
        message:
            f"prune and fine-tune {batch[0].task} seed {{wildcards.seed}} {batch[0].method} ({len(batch)} cell{'s' * (len(batch) > 1)})"
        shell:
            "python -m fgp {params.command} > {log} 2>&1"
