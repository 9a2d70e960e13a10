"""`ipt fetch`: bring the photographs to `data/raw`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.paths import RAW

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Copy the bundled photographs out of the installed packages, byte for byte."""
    folder = context.out / RAW / context.params.data.level
    folder.mkdir(parents=True)
    for photograph in BUNDLED:
        source = locate(photograph)
        shutil.copyfile(source, folder / f"{photograph.name}{source.suffix}")
