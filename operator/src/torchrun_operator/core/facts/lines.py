"""The lines of a log, as people see them: without colour codes, progress bars in one piece, and torchrun's prefixes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_BACK = re.compile("[\r\b]+")
"""A progress bar goes back to write over itself. All that it wrote is in the log."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_SOURCE = re.compile(r"\[((?:rank|[A-Za-z_]+)?\d+)\]: ?")
"""Who writes: the role and local rank of torchrun's --tee, or the rank in a traceback after init_process_group."""
_RANK = re.compile(r"\brank(\d+)$")
_ESCAPED = re.compile(r"Traceback \(most recent call last\):\\n(?:[^\"\\]|\\.)*")
"""A traceback in one line, as a string of JSON."""
_LONG = 4000
_MOST_PIECES, _MOST_SOURCES = 50, 3
JUDGED = 500
"""How many characters of a line decide what it is."""
_NOISE = 0.3
"""A line with a larger part of characters that are no text is no text."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line."""

    stamp: str
    """When it was written, as Kubernetes says; empty: unknown."""
    source: str
    """Which worker wrote it, as far as the line says."""
    text: str

    @property
    def time(self) -> datetime | None:
        """When it was written."""
        return time_of(self.stamp)

    @property
    def rank(self) -> int | None:
        """The rank of the worker, if the line has it."""
        found = _RANK.search(self.source)
        return int(found[1]) if found is not None else None


def read_lines(log: str) -> list[Line]:
    """Read a log whose lines begin with their times, and skip lines without one."""
    stamped = (_STAMPED.match(line) for line in log.split("\n"))
    return [line for found in stamped if found is not None for line in _pieces(found[1], found[2])]


def plain_lines(text: str) -> list[Line]:
    """Read a text without times."""
    return [line for each in text.split("\n") for line in _pieces("", each)]


def is_text(text: str) -> bool:
    """Whether a line is for people: it has a letter or a digit, and is neither empty nor binary."""
    text = text[:JUDGED]
    odd = sum(1 for character in text if character == "\N{REPLACEMENT CHARACTER}" or not character.isprintable())
    return any(character.isalnum() for character in text) and odd <= _NOISE * len(text)


def time_of(stamp: str) -> datetime | None:
    """Return the time that Kubernetes wrote. It writes nanoseconds, Python reads microseconds."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", stamp))
    except ValueError:
        return None


def _pieces(stamp: str, raw: str) -> Iterable[Line]:
    """Split what was written over. An empty line stays, because it ends a paragraph."""
    pieces = [piece for piece in _BACK.split(raw) if piece] if "\r" in raw or "\b" in raw else [raw]
    for piece in pieces[-_MOST_PIECES:] or [""]:
        for text in _unfolded(piece):
            yield _sourced(stamp, _CONTROL.sub("", _ESCAPE.sub("", _clipped(text))))


def _clipped(text: str) -> str:
    """Keep both ends of a line that is too long to read: words at its beginning, or an error after a bar."""
    return text if len(text) <= _LONG else text[: _LONG // 2] + text[-_LONG // 2 :]


def _unfolded(text: str) -> list[str]:
    found = _ESCAPED.search(text)
    if found is None:
        return [text]
    return found[0].replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t").replace("\\\\", "\\").split("\n")


def _sourced(stamp: str, text: str) -> Line:
    source = ""
    for _ in range(_MOST_SOURCES):
        found = _SOURCE.match(text)
        if found is None:
            break
        source, text = f"{source} {found[1]}".strip(), text[found.end() :]
    return Line(stamp, source, text)
