"""Pages from templates: one self-contained HTML file each, in one style, without scripts or a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerflow.artefact import write_bytes
from steerflow.errors import SteerflowError
from steerflow.report import words

# The letters in a line of a method's or arm's name in a table.
_TABLE_LETTERS = 40


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """The page as text; ``template`` is a file beside this module. Equal contexts give equal text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        svg=Markup,
        percent=words.percent,
        interval=words.interval,
        p=words.probability,
        task=words.task,
        lines=lambda name: words.lines(name, _TABLE_LETTERS),
        number=words.number,
        weight=words.weight,
        duration=words.seconds,
    )
    return environment.get_template(template).render(context)


def write_page(text: str, out: Path) -> Path:
    """Write a page, and the folders that lead to it; returns its path."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SteerflowError(f"Could not make the folder {out.parent}: {error.strerror or error}.") from error
    write_bytes(out, text.encode())
    return out
