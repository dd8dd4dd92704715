"""Tables as kubectl prints them: columns apart by three spaces, no lines."""

from collections.abc import Sequence

from torchrun_cli.show.style import PLAIN, Paint, width_of

_GAP = "   "
_NARROWEST = 20


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, paint: Paint = PLAIN, width: int | None = None
) -> list[str]:
    """Return the lines of a table. With a ``width``, the last column is wrapped to fit into it."""
    widths = [
        max(width_of(cell) for cell in (title, *(row[column] for row in rows))) for column, title in enumerate(titles)
    ]
    before = sum(widths[:-1]) + len(_GAP) * (len(titles) - 1)
    room = max(_NARROWEST, width - before) if width is not None else None
    found = [_line([paint.bold(title) for title in titles], widths)]
    for row in rows:
        first, *more = wrapped(row[-1], room)
        found.append(_line([*row[:-1], first], widths))
        found += [" " * before + line for line in more]
    return found


def wrapped(text: str, room: int | None) -> list[str]:
    """Return a text in lines of at most this many columns; None: in one line. A longer word has a line of its own."""
    if room is None or width_of(text) <= room:
        return [text]
    found, line = [], ""
    for word in text.split(" "):
        if line and width_of(line) + 1 + width_of(word) > room:
            found.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*found, line]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - width_of(cell)) for cell, width in zip(cells, widths, strict=True)]
    return _GAP.join([*padded[:-1], cells[-1]]).rstrip()
