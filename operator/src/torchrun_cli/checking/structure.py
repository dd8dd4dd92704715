"""Checks a value against the schema of the CRD, as the API server does: types, limits, unknown and missing fields."""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Location = tuple[str | int, ...]

_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_LIMITS = (
    # keyword, whether it holds, message
    ("minimum", lambda value, limit: value >= limit, "must be at least {limit}"),
    ("maximum", lambda value, limit: value <= limit, "must be at most {limit}"),
    ("minLength", lambda value, limit: len(value) >= limit, "must have at least {limit} characters"),
    ("maxLength", lambda value, limit: len(value) <= limit, "must have at most {limit} characters"),
    ("minItems", lambda value, limit: len(value) >= limit, "must have at least {limit} items"),
    ("maxItems", lambda value, limit: len(value) <= limit, "must have at most {limit} items"),
    ("minProperties", lambda value, limit: len(value) >= limit, "must have at least {limit} keys"),
    ("maxProperties", lambda value, limit: len(value) <= limit, "must have at most {limit} keys"),
    ("enum", lambda value, limit: value in limit, "must be one of {limit}"),
)


class Finding(NamedTuple):
    """What is wrong with one value."""

    location: Location
    message: str


@cache
def schema() -> dict[str, Any]:
    """Return the schema of a TorchrunJob."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("schema.json").read_text())
    return loaded


def findings(value: object, node: Mapping[str, Any], at: Location = ()) -> Iterator[Finding]:
    """Yield what is wrong with a value and all that it contains."""
    if not _fits(value, node):
        yield Finding(at, _type_words(value, node))
        return
    for keyword, holds, words in _LIMITS:
        if keyword in node and not holds(value, node[keyword]):
            limit = ", ".join(map(str, node[keyword])) if keyword == "enum" else node[keyword]
            yield Finding(at, words.format(limit=limit))
    if "pattern" in node and isinstance(value, str) and not re.search(node["pattern"], value):
        yield Finding(at, _pattern_words(value, node))
    if isinstance(value, dict):
        yield from _in_mapping(value, node, at)
    elif isinstance(value, list):
        yield from _in_list(value, node, at)


def _fits(value: object, node: Mapping[str, Any]) -> bool:
    if node.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    match node.get("type"):
        case "integer":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    return True


def _in_mapping(value: dict[Any, Any], node: Mapping[str, Any], at: Location) -> Iterator[Finding]:
    properties: Mapping[str, Any] = node.get("properties", {})
    others = node.get("additionalProperties")
    for name in node.get("required", ()):
        if name not in value:
            yield Finding((*at, name), "this field is required")
    for key, child in value.items():
        if not isinstance(key, str):
            yield Finding((*at, str(key)), "write the key as a text, in quotes")
        elif key in properties:
            yield from findings(child, properties[key], (*at, key))
        elif isinstance(others, dict):
            yield from findings(child, others, (*at, key))
        elif not node.get("x-kubernetes-preserve-unknown-fields"):
            yield Finding((*at, key), f"unknown field{_nearest(key, properties)}")


def _in_list(value: list[Any], node: Mapping[str, Any], at: Location) -> Iterator[Finding]:
    keys = node.get("x-kubernetes-list-map-keys", [])
    seen: list[object] = []
    for position, child in enumerate(value):
        yield from findings(child, node.get("items", {}), (*at, position))
        identity = [child.get(key) for key in keys] if isinstance(child, dict) else None
        if keys and identity is not None and identity in seen:
            named = ", ".join(f"{key} {child.get(key)!r}" for key in keys)
            yield Finding((*at, position), f"another item has the {named}; change or remove one")
        seen.append(identity)


def _nearest(key: str, properties: Mapping[str, Any]) -> str:
    matches = get_close_matches(key, list(properties), n=1) or get_close_matches(_camel(key), list(properties), n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known are {', '.join(sorted(properties))}" if 0 < len(properties) <= 12 else ""


def _camel(key: str) -> str:
    first, *others = re.split("[-_]", key)
    return first + "".join(other.capitalize() for other in others)


def _type_words(value: object, node: Mapping[str, Any]) -> str:
    wanted = (
        "a number or a text"
        if node.get("x-kubernetes-int-or-string")
        else _NAMES.get(node.get("type", ""), "something")
    )
    if value is None:
        return f"is empty; write {wanted}, or remove the field"
    if node.get("type") == "string" and isinstance(value, bool | int | float):
        written = json.dumps(value)
        return f'must be a text; write it in quotes: "{written}"'
    if node.get("type") == "array" and isinstance(value, str):
        return "must be a list; write [A, B], or one item per line after '- '"
    return f"must be {wanted}, not {_kind(value)}"


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _pattern_words(value: str, node: Mapping[str, Any]) -> str:
    if "[KMGTPE]i" in node["pattern"]:
        return f"{value!r} is not a quantity; write a number such as 2, 500m or 16Gi"
    return f"{value[:40]!r} does not match {node['pattern']}"
