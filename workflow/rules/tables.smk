# One rule a table: captions take no wildcards.
for table in GRID.tables:

    rule:
        name:
            f"table-{table}"
        input:
            cells=f"{ROOT}/cells.csv",
            config=f"{ROOT}/config.yaml",
            printed=f"{workflow.basedir}/config/printed/tables.yaml",
        output:
            report(
                f"{ROOT}/tables/table{table}.csv",
                caption=f"../report/table{table}.rst",
                category="Tables",
                labels={"table": str(table), "format": "CSV"},
            ),
            report(
                f"{ROOT}/tables/table{table}.md",
                caption=f"../report/table{table}.rst",
                category="Tables",
                labels={"table": str(table), "format": "Markdown"},
            ),
            f"{ROOT}/tables/table{table}.tex",
        log:
            f"{ROOT}/logs/tables/table{table}.log",
        conda:
            "../../environment.yml"
        params:
            number=table,
            folder=lambda wildcards, output: os.path.dirname(output[0]),
            code=CODES.reading("fgp_workflow.tables", *map(method_module, CONFIG.methods)),
        message:
            f"table {table}"
        shell:
            "python -m fgp_workflow.tables --cells {input.cells} --config {input.config}"
            " --table {params.number} --out-dir {params.folder} > {log} 2>&1"
