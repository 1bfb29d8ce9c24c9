rule html_report:
    input:
        TABLES,
        FIGURES,
        config=f"{ROOT}/config.yaml",
    output:
        f"{ROOT}/report.html",
    log:
        f"{ROOT}/logs/report.log",
    conda:
        "../../environment.yml"
    message:
        "report"
    shell:
        "python -m snakemake all_tables all_figures --cores 1 --configfile {input.config} --nolock --report {output} > {log} 2>&1"
