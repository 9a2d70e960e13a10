# What the rules share. The grid, the cells' places and their provenance come from the package, so that DVC, Snakemake
# and `ipt` cannot disagree.
import sys
from pathlib import Path

from instruct_ipt import provenance
from instruct_ipt.errors import InputError
from instruct_ipt.params import load
from instruct_ipt.stages._cells import cell_record, cells_of, find_cell, kind_of, settings_of

def stop(message):
    """End with one line: an exception raised in an input function would drag a traceback along."""
    print(f"ipt: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


try:
    PARAMS = load()
except InputError as error:
    stop(error)


wildcard_constraints:
    profile="[a-z]+",
    study="[a-z_]+",
    setting=r"[a-z_]+(\+[a-z]+)?(-([a-z_]+|[0-9.]+))?",
    seed=r"[0-9]+",


def cell_files(study=None):
    """Metrics files of every cell of the profile, or of one study."""
    return [(cell.folder(PARAMS.profile) / "metrics.json").as_posix() for cell in cells_of(PARAMS, study)]


def cell_of(wildcards):
    """The cell that the wildcards name; one clear line when it is not in the grid or nothing stands beneath it."""
    if wildcards.profile != PARAMS.profile:
        stop(
            f"params.yaml stands at profile {PARAMS.profile}, the target asks for {wildcards.profile}: "
            f"`ipt profile {wildcards.profile}` first"
        )
    try:
        return find_cell(PARAMS, wildcards.study, wildcards.setting, int(wildcards.seed))
    except InputError as error:
        stop(error)


def leaves(wildcards):
    """Files of the replication that a cell stands on; cells never make them."""
    needed = kind_of(cell_of(wildcards).study).leaves
    missing = [path.as_posix() for path in needed if not path.exists()]
    if missing:
        stop(f"{' and '.join(missing)} must exist first: run `make repro` (or `dvc repro sensitivity`)")
    return [path.as_posix() for path in needed]


def made_with(wildcards):
    """Digest of the parameters and code of one cell: Snakemake reruns a cell when this value changes."""
    record = cell_record(PARAMS, cell_of(wildcards))
    return provenance.digest([record["params_digest"], record["code_digest"]])
