rule cell:
    input:
        leaves,
    output:
        "ablations/{profile}/{study}/{setting}/seed-{seed}/metrics.json",
    params:
        made_with=made_with,
    log:
        "logs/ablations/{profile}/{study}/{setting}/seed-{seed}.log",
    threads: PARAMS.ablations.threads
    resources:
        mem_mb=1500,
    shell:
        "ipt cell {wildcards.study} {wildcards.setting} {wildcards.seed} > {log} 2>&1"


rule rank:
    input:
        cell_files("rank"),


rule strategy:
    input:
        cell_files("strategy"),
