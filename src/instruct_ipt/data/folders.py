"""A person's folders of images: which files count, and which of them are pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from instruct_ipt.data.images import EXTENSIONS
from instruct_ipt.errors import InputError


def image_files(folder: Path, least: int = 1) -> dict[str, Path]:
    """Stem -> file of the images directly in ``folder``, in the order of the names.

    Raises:
        InputError: no such folder, two files of one name, or fewer than ``least`` images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            if path.stem in found:
                raise InputError(f"{path} and {found[path.stem].name} have one name; rename or remove one")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
    if len(found) < least:
        raise InputError(f"{folder} holds {len(found)} images ({', '.join(sorted(EXTENSIONS))}); give {least} or more")
    return found


def check_partners(inputs: Mapping[str, Path], targets: Mapping[str, Path], given: Path, target: Path) -> None:
    """Nothing, if both folders hold files of the same names.

    Args:
        inputs, targets: as `image_files` gives them.
        given, target: their folders.

    Raises:
        InputError: a file has no partner; names the first.
    """
    for one, other, folder in ((inputs, targets, target), (targets, inputs, given)):
        lonely = sorted(set(one) - set(other))
        if lonely:
            more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise InputError(f"{one[lonely[0]]} has no partner of that name in {folder}{more}; add or remove it")
