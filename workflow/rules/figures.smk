# One rule a figure: captions take no wildcards.
for figure in [name.removeprefix("fig") for name, section in CONFIG.figures if section and name != "fig1"]:

    rule:
        name:
            f"figure-{figure}"
        input:
            cells=f"{ROOT}/cells.csv",
            config=f"{ROOT}/config.yaml",
            printed=f"{workflow.basedir}/config/printed/tables.yaml",
        output:
            f"{ROOT}/figures/fig{figure}.pdf",
            report(
                f"{ROOT}/figures/fig{figure}.png",
                caption=f"../report/fig{figure}.rst",
                category="Figures",
                labels={"figure": figure},
            ),
        log:
            f"{ROOT}/logs/figures/fig{figure}.log",
        conda:
            "../../environment.yml"
        params:
            figure=figure,
            stem=lambda wildcards, output: os.path.splitext(output[0])[0],
            code=CODES.reading("fgp_workflow.figures"),
        message:
            f"figure {figure}"
        shell:
            "python -m fgp_workflow.figures --cells {input.cells} --config {input.config}"
            " --figure {params.figure} --out-stem {params.stem} > {log} 2>&1"


if CONFIG.figures.fig1:
    FIGURE1_SEED = GRID.seeds_of(CONFIG.figures.fig1.task)[0]

    rule heat_maps:
        input:
            data=COMMANDS.data_file(CONFIG.figures.fig1.task),
            weights=COMMANDS.dense(CONFIG.figures.fig1.task, FIGURE1_SEED),
            plan=f"{COMMANDS.folder(CONFIG.figures.fig1.task, FIGURE1_SEED, 'fgp', GRID.figure1_selection)}/plan.json",
            scores=COMMANDS.scores(CONFIG.figures.fig1.task, "fgp", FIGURE1_SEED),
        output:
            f"{ROOT}/figures/fig1.pdf",
            report(
                f"{ROOT}/figures/fig1.png",
                caption="../report/fig1.rst",
                category="Figures",
                labels={"figure": "1"},
            ),
        log:
            f"{ROOT}/logs/figures/fig1.log",
        conda:
            "../../environment.yml"
        params:
            stem=lambda wildcards, output: os.path.splitext(output[0])[0],
            flags=f"--classes {CONFIG.figures.fig1.classes} --channels {CONFIG.figures.fig1.channels}",
            code=CODES.reading("fgp_workflow.figures", CODES.network(CONFIG.figures.fig1.task)),
        message:
            "figure 1"
        shell:
            "python -m fgp_workflow.figures --figure 1 --data {input.data} --weights {input.weights} --plan {input.plan}"
            " --scores {input.scores} {params.flags} --out-stem {params.stem} > {log} 2>&1"
