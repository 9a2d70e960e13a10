"""A task of one's own: a new bias on the frozen backbone, trained on a person's pairs or damage (`ipt task`)."""

from __future__ import annotations

from .add import Report, add_task
from .fit import Settings
from .packs import OwnPack, list_packs, remove_pack

__all__ = ["OwnPack", "Report", "Settings", "add_task", "list_packs", "remove_pack"]
