"""`ipt serve`: the restorer as a web page and a small HTTP interface. It keeps nothing."""

from __future__ import annotations

from .app import create_app
from .limits import Limits

__all__ = ["Limits", "create_app"]
