# One rule for the methods of a task that score in one process (`cells_per_job`), for any seed.


for scoring in GRID.scorings():

    rule:
        name:
            f"score-{scoring.name}"
        input:
            data=COMMANDS.data_file(scoring.task),
            weights=lambda wildcards, scoring=scoring: {
                COMMANDS.scored(scoring.task, method, wildcards.seed) for method in scoring.methods
            },
        output:
            [COMMANDS.scores(scoring.task, method, "{seed}") for method in scoring.methods],
        log:
            f"{ROOT}/logs/score/{scoring.name}-seed{{seed}}.log",
        benchmark:
            f"{ROOT}/benchmarks/score/{scoring.name}-seed{{seed}}.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG.threads
        resources:
            gpu=GPU,
            gpu_mem_mb=gpu_mem_mb(scoring.task),
        params:
            command=lambda wildcards, scoring=scoring: COMMANDS.score(scoring, wildcards.seed),
            code=CODES.score(scoring),
        message:
            f"score {scoring.task} seed {{wildcards.seed}} {scoring.label}"
        shell:
            "FGP_CODE={params.code} $ON_GPU python -m fgp {params.command} > {log} 2>&1"
