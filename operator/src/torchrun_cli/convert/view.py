"""Values of a source with their places, so that each error names a field and a line."""

from collections.abc import Iterator
from typing import Any

from torchrun_cli.convert.source import ConvertError, Document, Path, path_text


class View:
    """A mapping in a source."""

    def __init__(self, document: Document, path: Path, value: dict[str, Any], title: str = "") -> None:
        self.document, self.path, self.value, self.title = document, path, value, title

    @classmethod
    def of(cls, document: Document) -> "View":
        """Return the view of a whole document."""
        return cls(document, (), document.value)

    def name(self, key: str | int = "") -> str:
        """Return the path of a field as errors write it: `spec.runPolicy`."""
        return path_text((*self.path, *([key] if key != "" else [])))

    def error(self, message: str, *keys: str) -> ConvertError:
        """Return an error about a field."""
        return ConvertError(message, self.document.line_of((*self.path, *keys)))

    def has(self, key: str) -> bool:
        """Whether a field is there and has a value."""
        return self.value.get(key) is not None

    def get(self, key: str) -> Any:  # noqa: ANN401 any YAML value
        """Return a field as it is; None if it is not there."""
        return self.value.get(key)

    def mapping(self, key: str) -> "View":
        """Return the mapping in a field; an empty one if the field is not there. Raises ConvertError."""
        found = self.value.get(key)
        if not isinstance(found, dict | None):
            raise self.error(f"{self.name(key)} must be a mapping", key)
        return View(self.document, (*self.path, key), found or {})

    def required_mapping(self, key: str, example: str) -> "View":
        """Return the mapping in a field. Raises ConvertError, with what to write, if there is none."""
        if not self.has(key):
            raise self.error(f"{self.name(key)} is missing; write {example}")
        return self.mapping(key)

    def sequence(self, key: str) -> list[Any]:
        """Return the list in a field; an empty one if the field is not there. Raises ConvertError."""
        found = self.value.get(key)
        if not isinstance(found, list | None):
            raise self.error(f"{self.name(key)} must be a list", key)
        return found or []

    def items(self, key: str) -> Iterator["View"]:
        """Yield the mappings in a list. Raises ConvertError if the field is something else."""
        for index, each in enumerate(self.sequence(key)):
            place = (*self.path, key, index)
            if not isinstance(each, dict):
                raise ConvertError(f"{self.name(key)}[{index}] must be a mapping", self.document.line_of(place))
            yield View(self.document, place, each)

    def words(self, key: str) -> list[str]:
        """Return the list of words in a field, numbers as text. Raises ConvertError."""
        found = self.sequence(key)
        if any(isinstance(each, dict | list) for each in found):
            raise self.error(f"{self.name(key)} must be a list of words, such as [torchrun, train.py]", key)
        return [text_of(each) for each in found]

    def text(self, key: str, default: str = "") -> str:
        """Return the text in a field. Raises ConvertError."""
        found = self.value.get(key)
        if isinstance(found, dict | list):
            raise self.error(f"{self.name(key)} must be a text", key)
        return default if found is None else text_of(found)

    def required(self, key: str, example: str) -> str:
        """Return the text in a field. Raises ConvertError, with what to write, if it is missing."""
        found = self.text(key)
        if not found:
            raise self.error(f"{self.name(key)} is missing; write {example}")
        return found

    def number(self, key: str) -> int | None:
        """Return the whole number in a field; None if it is not there. Raises ConvertError."""
        found = self.value.get(key)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise self.error(f"{self.name(key)} must be a whole number, not {text_of(found)!r}", key)
        return found


def text_of(value: object) -> str:
    """Return a scalar as text, as YAML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
