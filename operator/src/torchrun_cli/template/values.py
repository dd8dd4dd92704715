"""The values of a template: `default-values` in the manifest, files of values, and `--set`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.reading import Origin, nearest, read_one, read_yaml

DEFAULTS: Final = "default-values"
_BLOCK: Final = re.compile(rf"^{DEFAULTS}[ \t]*:.*\n?(?:(?:[ \t].*|#.*|[ \t]*)\n)*(?:[ \t].*)?", re.MULTILINE)
"""The key at the start of a line, and all that is indented below it."""
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_TEMPLATE: Final = re.compile(r"\{\{|\{%")
_RESERVED: Final = frozenset(
    {"and", "else", "false", "for", "if", "in", "include", "is", "loop", "none", "not", "or", "recursive", "self"}
    | {"super", "true", "False", "None", "True"}
)
"""Words that mean something else in a template."""


@dataclass(frozen=True)
class Setting:
    """One value that the user gives, and where it is from."""

    path: tuple[str, ...]
    value: Any
    origin: str


def split_defaults(text: str, origin: str) -> tuple[str, dict[str, Any]]:
    """Take the block `default-values` out of a manifest. Returns the rest, with the same lines, and the values.

    Raises CliError if the block is not a mapping of names to values, or contains templates.
    """
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        return text, {}
    if len(blocks) > 1:
        line = text.count("\n", 0, blocks[1].start()) + 1
        raise CliError(f"{origin}:{line}: {DEFAULTS} is already written above; keep one of them", Exit.USAGE)
    block = blocks[0]
    above = text.count("\n", 0, block.start())
    documents = read_yaml("\n" * above + block[0], Origin(origin))
    values = documents[0].value[DEFAULTS]
    rest = text[: block.start()] + "\n" * block[0].count("\n") + text[block.end() :]
    if values is None:
        return rest, {}
    if not isinstance(values, dict):
        raise CliError(f"{origin}:{above + 1}: {DEFAULTS}: write NAME: VALUE below it", Exit.USAGE)
    for name, value in values.items():
        where = f"{origin}:{documents[0].line(f'{DEFAULTS}.{name}')}: {DEFAULTS}"
        _check_name(where, name)
        _check_value(f"{where}.{name}", value)
    return rest, values


def read_values(text: str, origin: str) -> list[Setting]:
    """Read a file of values: a mapping. Raises CliError if it is none, or contains templates."""
    values = read_one(text, Origin(origin))
    if values is None:
        return []
    if not isinstance(values, dict):
        raise CliError(f"{origin}: write NAME: VALUE, one per line", Exit.USAGE)
    for name, value in values.items():
        _check_name(origin, name)
        _check_value(f"{origin}: {name}", value)
    return [Setting((name,), value, origin) for name, value in values.items()]


def parse_set(assignment: str, option: str = "--set") -> Setting:
    """Read NAME=VALUE, with the type that YAML gives to the value; `--set-string` reads it as a text.

    Nothing after `=` is an empty text. Raises CliError if it is no assignment.
    """
    name, separator, text = assignment.partition("=")
    origin = f"{option} {assignment if len(assignment) <= 60 else assignment[:59] + '…'}"
    if not separator or not name:
        raise CliError(f"{origin}: write NAME=VALUE", Exit.USAGE)
    path = tuple(name.split("."))
    for part in path:
        _check_name(origin, part)
    value = text if option == "--set-string" or not text else read_one(text, Origin(origin))
    return Setting(path, value, origin)


def merge(
    defaults: Mapping[str, Any], settings: Sequence[Setting], used: Callable[[], Sequence[str]]
) -> dict[str, Any]:
    """Return the defaults, replaced by the settings; the last setting of a name wins.

    `used` returns the names that the template uses, with or without a default. Raises CliError for a name that is
    neither used nor has a default.
    """
    values = dict(defaults)
    known = list(defaults)
    for setting in settings:
        name, *rest = setting.path
        if name not in known:
            known += [each for each in used() if each not in known]
        if name not in known:
            raise CliError(f"{setting.origin}: {_unknown(name, known)}", Exit.USAGE)
        values[name] = _placed(values.get(name), rest, setting, name)
    return values


def _placed(old: object, rest: Sequence[str], setting: Setting, path: str) -> object:
    if not rest:
        return setting.value
    if old is not None and not isinstance(old, dict):
        raise CliError(f"{setting.origin}: {path} is {old!r}, which has no parts; set {path} itself", Exit.USAGE)
    inner: dict[str, object] = dict(old or {})
    if rest[0] not in inner and inner:
        words = f"{path} has no {rest[0]!r}{nearest(rest[0], inner) or f'; it has {_listed(inner)}'}"
        raise CliError(f"{setting.origin}: {words}", Exit.USAGE)
    inner[rest[0]] = _placed(inner.get(rest[0]), rest[1:], setting, f"{path}.{rest[0]}")
    return inner


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return f"the manifest has no value {name!r}: it has no {DEFAULTS}"
    return f"the manifest has no value {name!r}{nearest(name, known) or f'; it has {_listed(known)}'}"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:20]) + (", …" if len(ordered) > 20 else "")


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        better = re.sub("[^A-Za-z0-9_]", "_", str(name))
        raise CliError(f"{where}: {name!r} is not a name that templates can use; write {better!r}", Exit.USAGE)
    if name in _RESERVED:
        raise CliError(f"{where}: {name!r} is a word of the template language; choose another name", Exit.USAGE)


def _check_value(where: str, value: object) -> None:
    if isinstance(value, str):
        if _TEMPLATE.search(value):
            words = "a value is not a template; compute it where it is used, or with {% set NAME = … %} above the job"
            raise CliError(f"{where}: {words}", Exit.USAGE)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_value(f"{where}.{key}", each)
    elif isinstance(value, list):
        for position, each in enumerate(value):
            _check_value(f"{where}[{position}]", each)
