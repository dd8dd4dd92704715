"""Reads YAML with the line of every value, for errors that say where to look."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

MOST_CHARACTERS: Final = 2_000_000
MOST_VALUES: Final = 100_000
"""Counted with every alias in full: a few lines of aliases can stand for billions of values."""
MOST_DEPTH: Final = 100


class ConvertError(Exception):
    """A file that cannot be converted: what is wrong, in which line, and what to write."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True)
class Document:
    """One YAML document that is a mapping."""

    value: dict[str, Any]
    line: int
    """The line where it begins, from 1."""
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False)
    """The line of each key and list item, by its path."""

    def line_of(self, path: Path) -> int:
        """Return the line of a value, or that of the nearest value around it."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), self.line)


class _Loader(yaml.SafeLoader):
    """A safe loader that leaves dates as text, as Kubernetes does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def documents(text: str) -> list[Document]:
    """Read all documents of a text; empty ones do not count. Raises ConvertError for what is no YAML."""
    if len(text) > MOST_CHARACTERS:
        raise ConvertError(f"the file has {len(text)} characters; at most {MOST_CHARACTERS} can be converted")
    try:
        nodes = [node for node in yaml.compose_all(text, _Loader) if node is not None]
        return [_Reader().document(node) for node in nodes if not _is_empty(node)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConvertError(f"not YAML: {error.problem or error}", mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise ConvertError(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConvertError("the values are nested too deeply") from error


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class _Reader:
    """Makes plain values of nodes, and remembers their lines."""

    def __init__(self) -> None:
        self._lines: dict[Path, int] = {}
        self._count = 0
        self._loader = _Loader("")

    def document(self, node: yaml.Node) -> Document:
        if not isinstance(node, yaml.MappingNode):
            raise ConvertError("the file must be a mapping, such as `apiVersion: ...`", node.start_mark.line + 1)
        value = self._value(node, ())
        return Document(value, node.start_mark.line + 1, self._lines)

    def _value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 any YAML value
        self._count += 1
        if self._count > MOST_VALUES:
            raise ConvertError("the aliases in the file stand for too many values; write the values out")
        if len(path) > MOST_DEPTH:
            raise ConvertError("the values are nested too deeply", node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self._item(each, (*path, index)) for index, each in enumerate(node.value)]
        return self._loader.construct_object(node, deep=True)

    def _item(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 any YAML value
        self._lines[path] = node.start_mark.line + 1
        return self._value(node, path)

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        self._loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key, line = self._loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | bool | None):
                raise ConvertError("a key must be a plain word", line)
            name = key if isinstance(key, str) else str(key)
            self._lines[(*path, name)] = line
            yield name, self._value(value_node, (*path, name))
