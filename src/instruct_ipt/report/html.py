"""HTML pages from the templates of this folder: one look, and the same bytes for the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def write_html(template: str, out: Path, **values: Any) -> None:
    """Fill ``template`` (a file of this folder) with ``values`` and write it; text cannot become markup.

    Args:
        template: its file name, for example ``page.html.j2``.
        out: file to write; its folder is made.
        values: what the template names; a name it uses and does not get is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template(template).render(**values)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8", newline="\n")
