"""What a person calls: restore an image of any size with the network of one release."""

from __future__ import annotations

from .choice import Choice, Guides
from .restorer import DEFAULT_TILE, OVERLAP, Restorer

__all__ = ["DEFAULT_TILE", "OVERLAP", "Choice", "Guides", "Restorer"]
