"""Which sets of the catalogue a run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instruct_ipt.data.catalogue import load_catalogue, select

if TYPE_CHECKING:
    from instruct_ipt.data.catalogue import DataSet


def chosen(data: Any) -> list[DataSet]:
    """The sets of `data.level` (none at level bundled), then those of `data.custom`.

    Args:
        data: the `data` section of the parameters.

    Raises:
        InputError: a custom set is not registered.
    """
    catalogue = load_catalogue()
    fetched = [] if data.level == "bundled" else select(catalogue, data.level)
    return fetched + (select(catalogue, None, tuple(data.custom)) if data.custom else [])
