"""Renders the templates of generated pages."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def page(template: str, *, trim_blocks: bool = False, **values: Any) -> str:  # noqa: ANN401 - what the template needs
    """Return the page from a template beside this file. A value that is missing is an error.

    With ``trim_blocks`` the line end after a statement of the template is dropped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=trim_blocks,
        autoescape=select_autoescape(),
    )
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(**values)


def _cell(text: str) -> str:
    """Return text that can stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")
