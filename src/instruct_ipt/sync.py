"""Rebuilding the tracking store from files: MLflow is a view, and a view can be lost."""

from __future__ import annotations

from instruct_ipt import params, runs, tracking
from instruct_ipt.disk import complaint
from instruct_ipt.errors import InputError


def sync() -> int:
    """Add a run for every finished stage, method and cell that the store lacks; a second time there is nothing to do.

    Runs whose results stand in files are tagged as current, older ones of the same place no longer are.

    Returns:
        How many runs were added; the runs that hold the means over seeds are not counted.

    Raises:
        InputError: a result file is damaged, or the tracking store cannot be reached or fails in the middle.
    """
    view, entries = params.load().mlflow, list(runs.finished())
    try:
        with tracking.opened(view) as store:
            return store.add_missing(entries)
    except Exception as error:
        if isinstance(error, OSError) and complaint(error):
            raise
        raise InputError(tracking.unreachable(error)) from None
