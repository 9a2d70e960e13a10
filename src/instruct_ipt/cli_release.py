"""`ipt arm` and what measures a release. Thin, like the rest of the command line."""

from __future__ import annotations

from typing import Annotated

import typer


def arm(
    name: Annotated[str, typer.Argument(help="shared, experts, film, frozen, synchronous, or release.")],
) -> None:
    """Train one network that a release is or is compared with."""
    from instruct_ipt.release.arms import train

    print(train(name))
