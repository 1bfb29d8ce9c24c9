# Tables, figures and the report, from the table of all cells.


rule table:
    input:
        cells=PATHS.run("cells.csv"),
        config=PATHS.run("config.yaml"),
        printed=local(PRINTED),
    output:
        report(
            PATHS.run("tables", "table{table}.html"),
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}", "format": "HTML"},
        ),
        report(
            PATHS.run("tables", "table{table}.md"),
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}", "format": "Markdown"},
        ),
        report(
            PATHS.run("tables", "table{table}.csv"),
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}", "format": "CSV"},
        ),
        PATHS.run("tables", "table{table}.tex"),
    log:
        PATHS.run("logs", "tables", "table{table}.log"),
    wildcard_constraints:
        table=one_of(map(str, EXPERIMENT.tables)),
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        code=KEYS.labels(),
    message:
        "table {wildcards.table}"
    shell:
        "python -m fgp_workflow.tables --cells {input.cells} --config {input.config} --paper {input.printed:q}"
        " --table {wildcards.table} --out-dir {params.folder} > {log} 2>&1"


rule figure:
    input:
        cells=PATHS.run("cells.csv"),
        config=PATHS.run("config.yaml"),
        printed=local(PRINTED),
    output:
        PATHS.run("figures", "fig{figure}.pdf"),
        report(
            PATHS.run("figures", "fig{figure}.png"),
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        PATHS.run("logs", "figures", "fig{figure}.log"),
    wildcard_constraints:
        figure=one_of(figure for figure in EXPERIMENT.figures if figure != "1"),
    conda:
        "../../environment.yml"
    params:
        stem=lambda wildcards, output: os.path.splitext(output[0])[0],
        code=KEYS.code("fgp_workflow.figures"),
    message:
        "figure {wildcards.figure}"
    shell:
        "python -m fgp_workflow.figures --cells {input.cells} --config {input.config} --figure {wildcards.figure}"
        " --out-stem {params.stem} > {log} 2>&1"


# Figure 1 shows no cells but heat maps, of the dense network of the first seed.
if CONFIG.figures.fig1:
    FIGURE1 = {
        "task": CONFIG.figures.fig1.task,
        "seed": EXPERIMENT.seeds_of(CONFIG.figures.fig1.task)[0],
        "method": "fgp",
        "selection": EXPERIMENT.figure1_selection,
    }

    rule heat_maps:
        input:
            data=PATHS.data.format(dataset=EXPERIMENT.tasks[FIGURE1["task"]].dataset),
            weights=PATHS.dense().format(**FIGURE1),
            scores=PATHS.method("scores.safetensors").format(**FIGURE1),
            plan=PATHS.cell("plan.json").format(**FIGURE1),
        output:
            PATHS.run("figures", "fig1.pdf"),
            report(
                PATHS.run("figures", "fig1.png"),
                caption="../report/fig1.rst",
                category="Figures",
                labels={"figure": "1"},
            ),
        log:
            PATHS.run("logs", "figures", "fig1.log"),
        conda:
            "../../environment.yml"
        params:
            stem=lambda wildcards, output: os.path.splitext(output[0])[0],
            settings=SETTINGS.figure1(),
            code=KEYS.figure1(FIGURE1["task"]),
        message:
            "figure 1"
        shell:
            "python -m fgp_workflow.figures --figure 1 --data {input.data} --weights {input.weights} --plan {input.plan}"
            " --scores {input.scores} {params.settings} --out-stem {params.stem} > {log} 2>&1"


rule report:
    input:
        MARK,
        CELLS,
        TABLES,
        FIGURES,
        captions=local(sorted(map(os.path.relpath, Path(workflow.basedir).glob("workflow/report/*.rst")))),
        config=PATHS.run("config.yaml"),
    output:
        PATHS.run("report.html"),
    log:
        PATHS.run("logs", "report.log"),
    localrule: True
    conda:
        "../../environment.yml"
    message:
        "report"
    shell:
        "python -m snakemake all_tables all_figures --cores 1 --configfile {input.config} --nolock"
        " --report {output} > {log} 2>&1"
