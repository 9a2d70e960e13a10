"""The feature-adaptation rivals: weights stay shared, features change with the task. One file each, one interface."""

from __future__ import annotations

from .film import Film, hidden_for_budget
from .shared import Shared

__all__ = ["Film", "Shared", "hidden_for_budget"]
