"""Reads shell text roughly: the plain commands in it, with the variables that hold options in place. Pure."""

import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Final

_SEPARATOR: Final = re.compile("[;&|()]+")
_COMMENT: Final = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_ASSIGNED: Final = re.compile(
    r"(?:^|[;&|\s])(?P<name>[A-Za-z_]\w*)=(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|\((?P<list>[^)]*)\)|(?P<bare>[^\s;&|\"'(]+))"
)
_USED: Final = re.compile(r"\"?\$(?:\{(?P<braced>[A-Za-z_]\w*)(?:\[[@*]\])?\}|(?P<plain>[A-Za-z_]\w*))\"?")
_MOST_CHARACTERS: Final = 100_000
_DEEPEST: Final = 3


def plain_commands(text: str, depth: int = 0) -> Iterator[tuple[str, ...]]:
    """Yield the plain commands in a shell text, and those in the texts that it gives to other shells."""
    cut = text[:_MOST_CHARACTERS].replace("\r\n", "\n").replace("\\\n", " ")
    for words in _split(_filled(_COMMENT.sub("", cut)).replace("\n", " ; ")):
        yield words
        inner = [word for before, word in itertools.pairwise(words) if _takes_text(before) and " " in word]
        for word in inner if depth < _DEEPEST else ():
            yield from plain_commands(word, depth + 1)


def _takes_text(word: str) -> bool:
    """Whether the next word is a shell text: it follows eval, or -c with other letters or alone."""
    return word == "eval" or re.fullmatch("-[a-z]*c", word) is not None


def _filled(text: str) -> str:
    """Return the text with the values of the variables that hold options or name torchrun."""
    values = {found["name"]: next(filter(None, found.groups()[1:]), "") for found in _ASSIGNED.finditer(text)}
    telling = {
        name: value for name, value in values.items() if re.search(r"(^|\s)--|torchrun|torch\.distributed", value)
    }
    return _USED.sub(lambda found: telling.get(found["braced"] or found["plain"], found[0]), text)[:_MOST_CHARACTERS]


def _split(text: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "", True
    words: list[str] = []
    try:
        for word in lexer:
            if _SEPARATOR.fullmatch(word):
                yield tuple(words)
                words = []
            else:
                words.append(word)
    except ValueError:
        pass  # a quote without an end: what was read before it is still true
    yield tuple(words)
