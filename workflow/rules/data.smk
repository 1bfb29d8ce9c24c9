# Read a data set, whatever its source, and write it as one file. Whether it may be downloaded is a resource, because a change of
# resources repeats nothing.


rule data:
    output:
        PATHS.data,
    log:
        PATHS.run("logs", "data", "{dataset}.log"),
    benchmark:
        PATHS.run("benchmarks", "data", "{dataset}.tsv")
    conda:
        "../../environment.yml"
    resources:
        download=lambda wildcards: "--download" if EXPERIMENT.datasets[wildcards.dataset].download else "",
    params:
        settings=lambda wildcards: SETTINGS.data(wildcards.dataset),
        key=lambda wildcards: KEYS.data(wildcards.dataset).key,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "FGP_KEY={params.key} python -m fgp data {params.settings} {resources.download} --out {output} > {log} 2>&1"


# How few MACs a task's network can be pruned to, and whether the budgets asked for are within; nothing is trained before that is
# known. What is asked for is a resource, because a change of resources repeats nothing: the network would be trained again.
rule budgets:
    input:
        data=data_of,
    output:
        PATHS.budgets,
    log:
        PATHS.run("logs", "budgets", "{task}.log"),
    conda:
        "../../environment.yml"
    resources:
        asked=lambda wildcards: SETTINGS.asked(wildcards.task),
    params:
        settings=lambda wildcards: SETTINGS.budgets(wildcards.task),
        key=lambda wildcards: KEYS.budgets(wildcards.task).key,
    message:
        "check the budgets of {wildcards.task}"
    shell:
        "FGP_KEY={params.key} python -m fgp budgets --data {input.data} {params.settings} {resources.asked} --out {output}"
        " > {log} 2>&1"
