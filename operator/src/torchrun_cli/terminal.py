"""The terminal: whether there is one, its width and colours, and screens that change while one looks at them."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TextIO

import click

from torchrun_cli.show.style import Paint

_USUAL_WIDTH = 80
"""Of a terminal that does not know how wide it is."""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream is a terminal; without an argument: the standard output."""
    found = sys.stdout if stream is None else stream
    return found.isatty()


def paint(stream: TextIO | None = None) -> Paint:
    """Return colours for a stream that is a terminal and wants them, else none."""
    return Paint(is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def width() -> int | None:
    """Return the columns of the terminal. None: the output goes elsewhere, so nothing is cut or wrapped."""
    if not is_terminal():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def say(lines: Iterable[str]) -> None:
    """Print lines. Characters that the encoding of the output lacks are replaced."""
    text = "".join(f"{line}\n" for line in lines)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)


def live() -> AbstractContextManager[Callable[[list[str]], None]]:
    """Return a screen: a function that replaces what it shows. Without a terminal, it prints what has changed."""
    return _screen() if is_terminal() else _changes()


@contextmanager
def _screen() -> Iterator[Callable[[list[str]], None]]:
    from rich.console import Console  # noqa: PLC0415 only live screens need it
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(no_color=not paint().on, highlight=False)
    shown: list[str] = []
    with Live(console=console, screen=True, auto_refresh=False) as screen:

        def show(lines: list[str]) -> None:
            shown[:] = lines
            screen.update(Text.from_ansi("\n".join(lines)), refresh=True)

        try:
            yield show
        finally:
            screen.stop()
            say(shown)  # what was on the screen last stays in the terminal


@contextmanager
def _changes() -> Iterator[Callable[[list[str]], None]]:
    before: list[list[str]] = [[]]

    def show(lines: list[str]) -> None:
        if lines != before[0]:
            say(lines if not before[0] else ["", *lines])
            before[0] = lines

    yield show
