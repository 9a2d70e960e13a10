"""`ipt claims`: each claim of the paper with its effect, interval and verdict, from the scores of the ablation grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from instruct_ipt.analysis.claims import judge
from instruct_ipt.paths import ABLATIONS, RESULTS

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `results/claims.csv`."""
    params = context.params
    # An image may be named by digits alone.
    per_image = pd.read_csv(ABLATIONS / "per_image.csv", dtype={"image": str})
    table = judge(per_image, pd.read_csv(ABLATIONS / "summary.csv"), params.profile, params.claims)
    (context.out / RESULTS).mkdir(parents=True, exist_ok=True)
    table.to_csv(context.out / RESULTS / "claims.csv", index=False, float_format="%.6g", lineterminator="\n")
