rule table:
    input:
        cells=f"{ROOT}/cells.csv",
        config=f"{ROOT}/config.yaml",
        printed=f"{workflow.basedir}/results/paper/tables.yaml",
    output:
        report(
            f"{ROOT}/tables/table{{table}}.csv",
            caption="../report/table{table}.rst",
            category="Tables",
            labels={"table": "{table}", "format": "CSV"},
        ),
        report(
            f"{ROOT}/tables/table{{table}}.md",
            caption="../report/table{table}.rst",
            category="Tables",
            labels={"table": "{table}", "format": "Markdown"},
        ),
        f"{ROOT}/tables/table{{table}}.tex",
    log:
        f"{ROOT}/logs/tables/table{{table}}.log",
    wildcard_constraints:
        table="[123]",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        code=stage_code("fgp_workflow.tables", *map(method_code, CONFIG.methods)),
    message:
        "table {wildcards.table}"
    shell:
        "python -m fgp_workflow.tables --cells {input.cells} --config {input.config}"
        " --table {wildcards.table} --out-dir {params.folder} > {log} 2>&1"
