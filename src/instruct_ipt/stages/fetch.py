"""`ipt fetch`: bring the images to `data/raw`.

The one stage that writes in place: its output is kept between runs (`persist` in `dvc.yaml`), so that an interrupted
download resumes and a second level does not throw the first away. `manifest.json` lists the files of the level in use.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_ipt.data.fetching import fetch_sets, files_of
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.disk import whole
from instruct_ipt.paths import RAW
from instruct_ipt.progress import progress
from instruct_ipt.provenance import sha256_file, write_json
from instruct_ipt.stages._datasets import chosen

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Copy the bundled photographs or fetch the sets of the level, and write the manifest.

    The environment variable ``IPT_MIRROR`` (a folder or an http address) stands in for the network.
    """
    raw, data = context.out / RAW, context.params.data
    sets = chosen(data)
    manifest = _bundled(raw) if data.level == "bundled" else {}
    if sets:
        with progress("fetching", 1) as advance:
            fetch_sets(sets, raw, mirror=os.environ.get("IPT_MIRROR"), observe=advance)
        manifest |= files_of(sets, raw)
    write_json(raw / "manifest.json", manifest)


def _bundled(raw: Path) -> dict[str, str]:
    """Copy the bundled photographs out of the installed packages, byte for byte."""
    folder, found = raw / "bundled", {}
    folder.mkdir(parents=True, exist_ok=True)
    for photograph in BUNDLED:
        source = locate(photograph)
        target = folder / f"{photograph.name}{source.suffix}"
        with whole(target) as temporary:
            shutil.copyfile(source, temporary)
        found[target.relative_to(raw).as_posix()] = sha256_file(target)
    return found
