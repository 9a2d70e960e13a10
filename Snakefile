# The ablation grid. `snakemake -n` shows what would run; workflow/README.md lists the targets.
include: "workflow/Snakefile"
