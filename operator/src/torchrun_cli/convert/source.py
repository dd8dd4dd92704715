"""The YAML of a source, with the line of every field for errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template import reading

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

MOST_CHARACTERS: Final = 4_000_000


class ConvertError(Exception):
    """A file that cannot be converted: what is wrong, in which line, and what to write."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line

    def named(self, name: str) -> CliError:
        """Return the error of the command. `name`: of the file."""
        place = name if self.line is None else f"{name}:{self.line}"
        return CliError(f"{place}: {self.message}", Exit.USAGE)


@dataclass(frozen=True)
class Document:
    """One YAML document that is a mapping."""

    value: dict[str, Any]
    read: reading.Document

    @property
    def line(self) -> int:
        """The line where it begins, from 1."""
        return self.read.origin.line(self.read.node.start_mark.line + 1)

    def line_of(self, path: Path) -> int:
        """Return the line of a value, or that of the nearest value around it."""
        return self.read.line(path_text(path))


def path_text(path: Path) -> str:
    """Return a path as errors write it: `spec.files[0].path`."""
    text = ""
    for each in path:
        text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else each
    return text


def documents(text: str, name: str, lines: Sequence[int] = ()) -> list[Document]:
    """Read all documents of a text; empty ones do not count. `lines`: the line in the file of each line of the text.

    Raises CliError for what is no YAML, and ConvertError for what is no mapping.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConvertError(f"the file has {len(text)} characters; at most {MOST_CHARACTERS} can be converted")
    found = reading.read_yaml(text, reading.Origin(name, tuple(lines)))
    return [_document(each) for each in found]


def _document(read: reading.Document) -> Document:
    value = read.value
    if not isinstance(value, dict):
        line = read.origin.line(read.node.start_mark.line + 1)
        raise ConvertError("the file must be a mapping, such as `apiVersion: ...`", line)
    return Document({key if isinstance(key, str) else str(key): each for key, each in value.items()}, read)
