"""Where the launcher comes before torchrun in a command, so that it is the process that starts torchrun. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from torchrun_operator.api.names import PROGRAMS_DIRECTORY
from torchrun_operator.api.shell import plain_commands
from torchrun_operator.api.torchrun import program_of, python_of

LAUNCHER: Final = f"{PROGRAMS_DIRECTORY}/python"
"""Path of the launcher in node pods. torchrun starts it instead of Python."""
_FIRST: Final = "--first"
_SHELLS: Final = frozenset(("sh", "bash", "dash", "ash", "ksh", "zsh"))
_TEXT_FOLLOWS: Final = re.compile("-[a-z]*c[a-z]*")
_NAME_FOLLOWS: Final = re.compile("[-+][a-z]*o")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=\S*")
_KEYWORDS: Final = frozenset(("exec", "then", "do", "else", "{", "!"))
_PATH: Final = r"(?:[\w.@+${}~-]*/)*"
_STARTED: Final = re.compile(
    r"(?:^|[;&|\n({]|\b(?:then|do|else)\b)[ \t]*"  # where a command begins
    r"(?:[A-Za-z_]\w*=[^\s'\"]*[ \t]+)*(?:exec[ \t]+)?"
    rf"(?P<program>{_PATH}torchrun|{_PATH}python[\d.]*[ \t]+-m[ \t]+torch\.distributed\.(?:run|launch))(?=\s)"
)
"""torchrun at the beginning of a command in a shell text."""
_OWN: Final = re.compile(r"\b(?:function|alias)[ \t]+torchrun\b|\btorchrun[ \t]*\(")
"""A function or an alias of that name."""
_COMMENT: Final = re.compile(r"(?:^|\s)#")
_NOT_PYTHON: Final = re.compile("--no[-_]python")


def launched(trainer: Mapping[str, Any], *, search: bool = False) -> dict[str, list[str]] | None:
    """Return the fields of the trainer container in which the launcher starts torchrun; None if it cannot.

    It can where the command is torchrun, and where it is a shell with one text that starts torchrun once. With
    ``search``, the image may have no ``python3`` in its PATH: the launcher looks for one, with ``/bin/sh``.
    """
    command, args = trainer.get("command") or [], trainer.get("args") or []
    words = [str(word) for word in (*command, *args)]
    if not command:
        return None  # the image may name a program that comes first
    if any(_NOT_PYTHON.match(word) for word in words):
        return None
    if program_of(words) is not None:
        python = [] if search else [python_of(words)]
        return {"command": [*python, LAUNCHER, _FIRST, *command]}
    place = _place_of_text(words)
    text = None if place is None else _with_launcher(words[place])
    if place is None or text is None:
        return None
    words[place] = text
    return {"command": words[: len(command)], **({"args": words[len(command) :]} if args else {})}


def _place_of_text(words: Sequence[str]) -> int | None:
    """Return which word of a shell command is its text; None for other commands."""
    if PurePosixPath(words[0]).name not in _SHELLS:
        return None
    for number, word in enumerate(words[1:-1], 1):
        if _TEXT_FOLLOWS.fullmatch(word):
            return number + 1
        if not word.startswith(("-", "+")) and not _NAME_FOLLOWS.fullmatch(words[number - 1]):
            return None
    return None


def _with_launcher(text: str) -> str | None:
    """Return a shell text with the launcher before torchrun; None if torchrun does not start exactly once."""
    found = [each for each in _STARTED.finditer(text) if not _COMMENT.search(_line_before(text, each.start("program")))]
    if len(found) != 1 or _OWN.search(text) or _NOT_PYTHON.search(text) or sum(1 for _ in _torchruns(text)) != 1:
        return None
    start = found[0].start("program")
    return f"{text[:start]}{LAUNCHER} {_FIRST} {text[start:]}"


def _line_before(text: str, place: int) -> str:
    return text[text.rfind("\n", 0, place) + 1 : place]


def _torchruns(text: str) -> Iterator[Sequence[str]]:
    """Yield the commands of a shell text that are torchrun."""
    for words in plain_commands(text):
        place = next((n for n, word in enumerate(words) if word not in _KEYWORDS and not _ASSIGNMENT.match(word)), 0)
        if program_of(words[place:]) is not None:
            yield words
