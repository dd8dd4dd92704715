"""Writes values as YAML, with comments beside them: a converted job explains what it leaves out."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml

from torchrun_cli.convert.source import Path
from torchrun_cli.template.writing import Dumper

Note = tuple[Path, str]
"""A comment and its place: above the value of that path, or at the end of what is there of the path."""

_WIDTH: Final = 120
_SHORT: Final = 100
"""Lists and mappings of scalars up to this many characters are written on one line."""
_BLOCKS: Final[tuple[Path, ...]] = (("metadata",), ("default-values",))
"""What people edit is written on several lines."""
_MARKED: Final = re.compile("[\ue000-\uf8ff]")


class Plain(str):
    """A text that is written as it is, without quotes: a number that a template will fill in."""

    __slots__ = ()


def write(value: dict[str, Any], notes: Sequence[Note] = ()) -> str:
    """Return the YAML of a mapping. Texts with marks (private characters) are quoted: their value is not known yet."""
    return "".join(f"{line}\n" for line in _mapping(value, (), _Comments(value, notes), 0))


class _Comments:
    """The comments by their places."""

    def __init__(self, value: dict[str, Any], notes: Sequence[Note]) -> None:
        self._before: dict[Path, list[str]] = {}
        self._after: dict[Path, list[str]] = {}
        for path, text in notes:
            depth = _depth(value, path)
            kind, place = (self._before, path) if depth == len(path) else (self._after, path[:depth])
            kind.setdefault(place, []).append(text)

    def before(self, path: Path, indent: int) -> Iterator[str]:
        return _comment(self._before.get(path, []), indent)

    def after(self, path: Path, indent: int) -> Iterator[str]:
        return _comment(self._after.get(path, []), indent)

    def inside(self, path: Path) -> bool:
        """Whether a comment belongs somewhere inside of this value."""
        return path in self._after or any(place[: len(path)] == path and place != path for place in self._before)


def _depth(value: Any, path: Path) -> int:  # noqa: ANN401 any YAML value
    """Return how many keys of the path lead to a collection with something in it, or to the value itself."""
    for depth, key in enumerate(path):
        inside = isinstance(value, dict) and key in value
        inside |= isinstance(value, list) and isinstance(key, int) and key < len(value)
        if not inside:
            return depth
        value = value[key]
        if depth + 1 < len(path) and not (isinstance(value, dict | list) and value):
            return depth
    return len(path)


def _comment(texts: Sequence[str], indent: int) -> Iterator[str]:
    for text in dict.fromkeys(texts):
        for line in text.splitlines():
            prefix = f"{' ' * indent}# "
            yield from textwrap.wrap(
                line,
                _WIDTH,
                initial_indent=prefix,
                subsequent_indent=prefix,
                break_long_words=False,
                break_on_hyphens=False,
            )


def _mapping(value: dict[str, Any], path: Path, comments: _Comments, indent: int) -> Iterator[str]:
    for key, each in value.items():
        place = (*path, key)
        yield from comments.before(place, indent)
        yield from _entry(f"{' ' * indent}{_scalar(key)}:", each, place, comments, indent)
    yield from comments.after(path, indent)


def _entry(start: str, value: Any, path: Path, comments: _Comments, indent: int) -> Iterator[str]:  # noqa: ANN401
    """Yield a key and its value: on one line if it is short."""
    flow = None if comments.inside(path) or path in _BLOCKS else _flow(value)
    if flow is not None and len(flow) <= _SHORT:
        yield f"{start} {flow}"
    elif isinstance(value, str) and not isinstance(value, Plain):
        yield from _text(start, value, indent)
    elif isinstance(value, dict):
        yield start
        yield from _mapping(value, path, comments, indent + 2)
    else:
        yield start
        yield from _items(value, path, comments, indent)


def _items(value: list[Any], path: Path, comments: _Comments, indent: int) -> Iterator[str]:
    for index, each in enumerate(value):
        place = (*path, index)
        yield from comments.before(place, indent)
        block = isinstance(each, dict | list) and (comments.inside(place) or _long(each))
        if block:
            inner = [*_nested(each, place, comments, indent + 2)]
            first = next(n for n, line in enumerate(inner) if not line.lstrip().startswith("#"))
            yield from inner[:first]
            yield f"{' ' * indent}- {inner[first][indent + 2 :]}"
            yield from inner[first + 1 :]
        else:
            yield from _entry(f"{' ' * indent}-", each, place, comments, indent)
    yield from comments.after(path, indent)


def _nested(value: Any, path: Path, comments: _Comments, indent: int) -> Iterator[str]:  # noqa: ANN401
    if isinstance(value, dict):
        return _mapping(value, path, comments, indent)
    return _items(value, path, comments, indent)


def _long(value: Any) -> bool:  # noqa: ANN401 any YAML value
    flow = _flow(value)
    return flow is None or len(flow) > _SHORT


def _flow(value: Any) -> str | None:  # noqa: ANN401 any YAML value
    """Return a value on one line. None for one that needs several: a text with lines, a collection of collections."""
    if isinstance(value, dict | list) and not value:
        return "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, list):
        parts = [None if isinstance(each, dict | list) else _flow_scalar(each) for each in value]
        return None if None in parts else f"[{', '.join(str(part) for part in parts)}]"
    if isinstance(value, dict):
        nested = [isinstance(each, dict | list) and bool(each) for each in value.values()]
        parts = [_flow(each) if isinstance(each, dict | list) else _flow_scalar(each) for each in value.values()]
        if None in parts or sum(nested) > 1 or (any(nested) and len(value) > 2):
            return None
        return f"{{{', '.join(f'{_scalar(key)}: {part}' for key, part in zip(value, parts, strict=True))}}}"
    return None if isinstance(value, str) and "\n" in value else _scalar(value)


def _flow_scalar(value: Any) -> str | None:  # noqa: ANN401 any scalar
    """Return a scalar inside of brackets, where a comma needs quotes. None for a text with lines."""
    if isinstance(value, str) and "\n" in value:
        return None
    if isinstance(value, Plain) or (isinstance(value, str) and _MARKED.search(value)):
        return _scalar(value)
    return yaml.dump([value], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=10**9).strip()[1:-1]


def _scalar(value: Any) -> str:  # noqa: ANN401 any scalar
    if isinstance(value, Plain):
        return str(value)
    if isinstance(value, str) and _MARKED.search(value):
        return _quoted(value)
    dumped: str = yaml.dump(value, Dumper=Dumper, allow_unicode=True, width=10**9)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _text(start: str, value: str, indent: int) -> Iterator[str]:
    """Yield a text with lines as a literal block, or in quotes where a block cannot hold it."""
    first = value.lstrip("\n")[:1]
    if first in ("", " ", "\t") or "\n" not in value or re.search("[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]", value):
        yield f"{start} {_quoted(value)}" if "\n" in value else f"{start} {_scalar(value)}"
        return
    body = value.rstrip("\n")
    kept = len(value) - len(body)
    yield f"{start} |{'-' if kept == 0 else '' if kept == 1 else '+'}"
    lines = [*body.split("\n"), *[""] * (kept - 1)]
    yield from (f"{' ' * (indent + 2)}{line}" if line else "" for line in lines)


def _quoted(value: str) -> str:
    dumped: str = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**9)
    return dumped.removesuffix("\n")


def one_line(value: Any) -> str:  # noqa: ANN401 any YAML value
    """Return a value on one line, for a comment."""
    dumped: str = yaml.safe_dump(
        [_without_plain(value)], default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False
    )
    return " ".join(dumped.strip()[1:-1].split())


def _without_plain(value: Any) -> Any:  # noqa: ANN401 any YAML value
    if isinstance(value, dict):
        return {key: _without_plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_plain(each) for each in value]
    return str(value) if isinstance(value, Plain) else value
