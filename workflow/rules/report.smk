rule html_report:
    input:
        TABLES,
        FIGURES,
        captions=sorted(map(str, Path(workflow.basedir).glob("workflow/report/*.rst"))),
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
        "python -m snakemake all_tables all_figures --cores 1 --configfile {input.config} --nolock"
        " --report {output}.part.html > {log} 2>&1 && mv {output}.part.html {output}"
