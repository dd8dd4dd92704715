"""Reads YAML as the API server does, with limits: `2:4` is a text, `1e-3` a number, and small files stay small."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import isfinite
from typing import Any, Final, NoReturn, TypeVar

import yaml
from yaml.constructor import ConstructorError

from torchrun_cli.errors import CliError, Exit

MAX_VALUES: Final = 200_000
"""Values in a document, aliases counted as often as they are used."""
_TEXTS: Final = 2**25
"""Characters of all texts in a document, aliases counted as often as they are used."""
N = TypeVar("N", int, float)
_TAG: Final = "tag:yaml.org,2002:"


class _Resolver(yaml.resolver.BaseResolver):
    """Types of plain words as in YAML 1.2, which Kubernetes follows but for `yes`, `no`, `on` and `off`."""


for _name, _pattern, _first in (
    ("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", "[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Resolver.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), list(_first))


class _Loader(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer,
              yaml.constructor.SafeConstructor, _Resolver):  # fmt: skip
    """PyYAML's parser in Python: its C parser has no limit for the depth of nested values."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)
        _Resolver.__init__(self)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if digits.startswith("0") and digits.isdigit() and len(digits) > 1:
        digits = f"0o{digits[1:]}" if set(digits) <= set("01234567") else digits.lstrip("0")
    return sign * _number(node, lambda: int(digits, 0))


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    number = _number(node, lambda: float(text.replace(".inf", "inf").replace(".nan", "nan")))
    if not isfinite(number):
        raise ConstructorError(None, None, f"{node.value} is not a number in JSON; write it in quotes", node.start_mark)
    return number


def _number(node: yaml.ScalarNode, read: Callable[[], N]) -> N:
    try:
        return read()
    except ValueError:
        raise ConstructorError(None, None, f"{node.value[:40]!r} is not a number", node.start_mark) from None


def _unknown(_: _Loader, node: yaml.Node) -> NoReturn:
    tag = node.tag.replace(_TAG, "!!")
    raise ConstructorError(None, None, f"the tag {tag} is not allowed; remove it", node.start_mark)


_CONSTRUCTORS: dict[Any, Any] = {
    tag: constructor
    for tag, constructor in yaml.constructor.SafeConstructor.yaml_constructors.items()
    # JSON, and so the API server, has neither dates nor bytes nor sets.
    if tag and tag.removeprefix(_TAG) in {"null", "bool", "str", "seq", "map"}
} | {
    None: _unknown,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    f"{_TAG}merge": yaml.constructor.SafeConstructor.construct_yaml_str,
}
_Loader.yaml_constructors = _CONSTRUCTORS


@dataclass(frozen=True)
class Origin:
    """Where a text is from, for messages."""

    name: str
    lines: tuple[int, ...] = ()
    """The lines in the user's file, if the text was rendered from it."""

    def line(self, number: int) -> int:
        """Return the line in the user's file of a line of the text; both count from 1."""
        return self.lines[min(number, len(self.lines)) - 1] if self.lines else number

    def error(self, line: int | None, words: str) -> CliError:
        """Return an error that names the file and the line."""
        place = self.name if line is None else f"{self.name}:{self.line(line)}"
        return CliError(f"{place}: {words}", Exit.USAGE)


@dataclass(frozen=True)
class Document:
    """One document of a YAML text."""

    node: yaml.Node
    origin: Origin

    @cached_property
    def value(self) -> Any:  # noqa: ANN401 whatever the document has
        """The document as lists, mappings and plain values."""
        try:
            return _Loader("").construct_document(self.node)
        except ConstructorError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise self.origin.error(line, error.problem or str(error)) from None

    def line(self, path: str) -> int:
        """Return the line, from 1, of a field such as `spec.files[0].path`: of its nearest part that exists."""
        return self.origin.line(_descend(self.node, path).start_mark.line + 1)


def read_yaml(text: str, origin: Origin) -> list[Document]:
    """Read all documents of a text, without those that are empty.

    Raises CliError that names the line if it is not YAML, has a key twice, or grows beyond all limits by its aliases.
    """
    try:
        documents = [Document(node, origin) for node in _compose(text) if not _is_null(node)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(word for word in (error.context, error.problem) if word)
        raise origin.error(mark.line + 1 if mark else None, f"this is not YAML: {words}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise origin.error(line, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML") from None
    except RecursionError:
        raise origin.error(None, "values are nested too deeply") from None
    for document in documents:
        _check(document)
    return documents


def read_one(text: str, origin: Origin) -> object:
    """Read a text that has one document, or none: then the result is None. Raises CliError as :func:`read_yaml`."""
    documents = read_yaml(text, origin)
    if len(documents) > 1:
        raise origin.error(documents[1].node.start_mark.line + 1, "a second document begins here; write one")
    return documents[0].value if documents else None


def nearest(name: str, names: Iterable[object]) -> str:
    """Return words that name the nearest of some names, or nothing if none is near."""
    matches = get_close_matches(name, [str(each) for each in names], n=1, cutoff=0.7)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _compose(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        yield node


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _check(document: Document) -> None:
    try:
        _Measure(document.origin).of(document.node)
    except RecursionError:
        raise document.origin.error(None, "values are nested too deeply") from None


class _Measure:
    """Counts values as if each alias were a copy. A shared node is measured once, so that counting is fast."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._known: dict[int, tuple[int, int] | None] = {}

    def of(self, node: yaml.Node) -> tuple[int, int]:
        """Return the number of values and of characters. Raises CliError for more than the limits, and for cycles."""
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise self._wrong(node, "this value contains itself; remove the alias")
            return known
        self._known[id(node)] = None
        values, characters = 1, 0
        if isinstance(node, yaml.ScalarNode):
            characters = len(node.value)
        for child in self._children(node):
            more = self.of(child)
            values, characters = values + more[0], characters + more[1]
        if values > MAX_VALUES or characters > _TEXTS:
            raise self._wrong(node, f"this is more than {MAX_VALUES} values or 32 MiB, aliases included; write less")
        self._known[id(node)] = values, characters
        return values, characters

    def _children(self, node: yaml.Node) -> Iterator[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            yield from node.value
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise self._wrong(key, "a key must be a word, not a list or a mapping; quote {{ }} at the start")
                if key.value in seen and not key.tag.endswith(":merge"):
                    line = self._origin.line(seen[key.value])
                    raise self._wrong(key, f"the key {key.value!r} is already in line {line}; remove one")
                seen[key.value] = key.start_mark.line + 1
                yield value

    def _wrong(self, node: yaml.Node, words: str) -> CliError:
        return self._origin.error(node.start_mark.line + 1, words)


def _descend(node: yaml.Node, path: str) -> yaml.Node:
    """Follow a path as far as it exists, and return the key or the item there. Keys may contain dots."""
    found = node
    while path:
        if path.startswith("[") and isinstance(node, yaml.SequenceNode):
            index, _, path = path[1:].partition("]")
            if not index.isdigit() or int(index) >= len(node.value):
                break
            found = node = node.value[int(index)]
        elif isinstance(node, yaml.MappingNode):
            path = path.lstrip(".")
            fits = [(key, value) for key, value in node.value if re.match(rf"{re.escape(key.value)}(?![^.\[])", path)]
            if not fits:
                break
            found, node = max(fits, key=lambda pair: len(pair[0].value))
            path = path[len(found.value) :]
        else:
            break
    return found
