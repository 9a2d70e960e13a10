# The ablation grid. `snakemake -n` shows what would run; workflow/README.md lists the targets.
# The rule `all` stands here and not in an included file: there it would not be the default target.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/common.smk"


rule all:
    localrule: True
    input:
        cell_files(),


include: "workflow/rules/cells.smk"
