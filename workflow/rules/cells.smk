rule cell:
    input:
        leaves,
    output:
        "ablations/{profile}/{study}/{setting}/seed-{seed}/metrics.json",
    params:
        made_with=made_with,
    log:
        "logs/ablations/{profile}/{study}/{setting}/seed-{seed}.log",
    benchmark:
        "logs/ablations/{profile}/{study}/{setting}/seed-{seed}.benchmark.tsv"
    threads: PARAMS.ablations.threads
    resources:
        mem_mb=1500,
    shell:
        "ipt cell {wildcards.study:q} {wildcards.setting:q} {wildcards.seed} > {log:q} 2>&1"


# One target per study: `snakemake -c2 rank`.
for study in settings_of(PARAMS):

    rule:
        name:
            study
        localrule: True
        input:
            cell_files(study),
