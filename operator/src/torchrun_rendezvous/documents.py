"""JSON documents to frozen records and back. The annotation of a field is its rule; parser and writer follow it.

Documents are never trusted: a wrong type, a missing field or a value out of bounds raises ProtocolError. Unknown fields
are ignored, so newer versions may add some.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import types
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[object, str], Any]
"""Takes a value and the path to its field; returns what the record holds or raises ProtocolError."""

UTC = timezone.utc
MAX_INTEGER = 2**53
"""The largest integer that every JSON reader keeps exactly."""
MAX_ITEMS = 16_384
MAX_TIME_CHARACTERS = 40
YEARS = range(1970, 2200)
"""Years of a time. Readers add durations to it, which must give a time too."""
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:[Zz]|([+-][0-9]{2}):?([0-9]{2}))"
)


class ProtocolError(ValueError):
    """A document is invalid. The message names the field and what it needs."""


class Integer(NamedTuple):
    """An integer from low to high."""

    low: int = 0
    high: int = MAX_INTEGER

    def read(self, value: object, where: str) -> int:
        """Return the integer. Rejects floats and booleans."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ProtocolError(f"{where}: an integer from {self.low} to {self.high} is needed")
        return value


class Number(NamedTuple):
    """A finite number from low to high."""

    low: float = -sys.float_info.max
    high: float = sys.float_info.max

    def read(self, value: object, where: str) -> float:
        """Return the number as a float. Rejects booleans."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise ProtocolError(f"{where}: a finite number from {self.low:g} to {self.high:g} is needed")
        return float(value)


class Text(NamedTuple):
    """Text of 1 to `longest` characters that matches the pattern, if there is one, as a whole."""

    longest: int
    pattern: str = ""
    kind: str = "text"

    def read(self, value: object, where: str) -> str:
        """Return the text. Rejects half of a surrogate pair, because UTF-8 cannot encode it."""
        try:
            if not isinstance(value, str) or not 0 < len(value) <= self.longest:
                raise ValueError
            if not value.isascii():
                value.encode()
            if self.pattern and re.fullmatch(self.pattern, value) is None:
                raise ValueError
        except ValueError:
            raise ProtocolError(f"{where}: {self.kind} of 1 to {self.longest} characters is needed") from None
        return value


class Wire(NamedTuple):
    """How a field of a document differs from the parameter of the record's constructor."""

    name: str = ""
    """The name in the document. Empty: the name of the field in camelCase."""
    required: bool = False
    """Every document must have it, although the constructor has a default."""
    null: bool = True
    """Whether a field that may be None may be null too."""


class Field(NamedTuple):
    """One field of a record, and of its documents."""

    attribute: str
    key: str
    read: Reader
    required: bool


def read(kind: type[T], document: object, where: str = "") -> T:
    """Return the record of a document, which is at that path of a larger one. Raises ProtocolError."""
    if not isinstance(document, dict):
        raise ProtocolError(f"{where or 'document'}: a JSON object is needed")
    found: dict[str, Any] = {}
    for field in fields(kind):
        path = f"{where}.{field.key}" if where else field.key
        if field.key in document:
            found[field.attribute] = field.read(document[field.key], path)
        elif field.required:
            field.read(None, path)  # raises, unless null is allowed
            raise ProtocolError(f"{path}: the field is needed, with null for nothing")
    return kind(**found)


def write(value: Any) -> Any:  # noqa: ANN401 - any field of a record
    """Return a record, or the value of a field, in its JSON form."""
    if isinstance(value, datetime):
        return write_time(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        return {field.key: write(getattr(value, field.attribute)) for field in fields(type(value))}
    return [write(item) for item in value] if isinstance(value, tuple) else value


def fields(kind: type) -> tuple[Field, ...]:
    """Return the fields of a frozen dataclass or a NamedTuple."""
    if kind not in _known:
        _known[kind] = _fields(kind)
    return _known[kind]


_known: dict[type, tuple[Field, ...]] = {}


def _fields(kind: type) -> tuple[Field, ...]:
    optional: set[str] = set()
    if dataclasses.is_dataclass(kind):
        optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    found = []
    for attribute, hint in get_type_hints(kind, include_extras=True).items():
        wire = next((extra for extra in _extras(hint) if isinstance(extra, Wire)), Wire())
        head, *tail = attribute.split("_")
        key = wire.name or head + "".join(word.capitalize() for word in tail)
        found.append(Field(attribute, key, _reader(hint, wire), wire.required or attribute not in optional))
    return tuple(found)


def _extras(hint: object) -> tuple[object, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _reader(hint: Any, wire: Wire) -> Reader:  # noqa: ANN401 - annotations have no common type
    """Return the parser of an annotation."""
    for extra in _extras(hint):
        if isinstance(extra, (Integer, Number, Text)):
            return extra.read
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _reader(arguments[0], wire)
    if origin in (Union, types.UnionType):
        inner = _reader(next(kind for kind in arguments if kind is not types.NoneType), wire)
        return functools.partial(_read_optional, inner) if wire.null else inner
    if origin is tuple:
        return functools.partial(_read_items, _reader(arguments[0], wire))
    simple: dict[object, Reader] = {bool: _read_flag, datetime: read_time}
    return simple.get(hint) or functools.partial(read, hint)


def _read_optional(inner: Reader, value: object, where: str) -> object:
    return None if value is None else inner(value, where)


def _read_items(inner: Reader, value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise ProtocolError(f"{where}: a list of at most {MAX_ITEMS} items is needed")
    return tuple(inner(item, f"{where}.{index}") for index, item in enumerate(value))


def _read_flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError(f"{where}: true or false is needed")
    return value


def read_time(value: object, where: str) -> datetime:
    """Return a time in UTC, in microseconds. It must name its offset. Raises ProtocolError."""
    found = _TIME.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_TIME_CHARACTERS else None
    try:
        if found is None:
            raise ValueError
        day, time, seconds, fraction, hours, minutes = found.groups()
        # Python 3.10 reads neither a Z nor every number of digits.
        offset = f"{hours}:{minutes}" if hours else "+00:00"
        text = f"{day}T{time}:{seconds or '00'}.{(fraction or '')[:6]:0<6}{offset}"
        time_read = datetime.fromisoformat(text).astimezone(UTC)
        if time_read.year not in YEARS:
            raise ValueError
        return time_read
    except (ValueError, OverflowError):
        raise ProtocolError(f"{where}: a time like 2026-01-31T12:00:00Z is needed") from None


def write_time(time: datetime) -> str:
    """Write an aware time in UTC, with milliseconds, or with microseconds if it has some."""
    precision = "microseconds" if time.microsecond % 1000 else "milliseconds"
    return time.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def time_of(seconds: float) -> datetime:
    """Return the time that many seconds after the epoch, rounded down to milliseconds."""
    time = datetime.fromtimestamp(seconds, UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
