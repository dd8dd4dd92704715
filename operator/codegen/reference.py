"""Writes the reference of TorchrunJob from the schema that the API server uses; its text is in reference.md.j2."""

from collections.abc import Iterator
from dataclasses import dataclass

from crd import schema
from model_schema import Schema
from pages import page
from rule import Rule
from rules import RULES

from torchrun_operator.api.names import API_VERSION, CATEGORIES, KIND, SHORT_NAME

_OPAQUE = (
    "spec.lead.env",
    "spec.lead.resources",
    "spec.template",
    "spec.rendezvous.template",
    "spec.snapshots.volumeClaimTemplate",
)
"""Types of Kubernetes. The reference does not repeat their fields."""


@dataclass(frozen=True)
class Field:
    """One row of a table of fields, in Markdown."""

    path: str
    required: bool
    type: str
    default: str
    description: str


def reference() -> str:
    """Return the reference as Markdown."""
    root = schema()["properties"]
    return page(
        "reference.md.j2",
        api_version=API_VERSION,
        kind=KIND,
        short_name=SHORT_NAME,
        categories=CATEGORIES,
        spec=list(_fields("spec", root["spec"])),
        rules=[{"blamed": _blamed(rule), "message": rule.message} for rule in RULES],
        status=list(_fields("status", root["status"])),
    )


def _fields(path: str, node: Schema) -> Iterator[Field]:
    for name, child in node.get("properties", {}).items():
        field = f"{path}.{name}"
        default = f"`{_literal(child['default'])}`" if "default" in child else ""
        yield Field(field, name in node.get("required", []), _type(child), default, child["description"])
        if field not in _OPAQUE:
            yield from _fields(f"{field}[]" if "items" in child else field, child.get("items", child))


def _type(node: Schema) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    name: str = node["type"]
    if name == "array":
        name = f"list of {node['items']['type']}s"
    elif "additionalProperties" in node:
        name = f"map of {node['additionalProperties']['type']}s"
    elif "format" in node:
        name = "time"
    bounds = _bounds(node)
    return f"{name}, {bounds}" if bounds else name


def _bounds(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    parts = []
    if low is not None and high is not None:
        parts.append(f"{low} to {high}")
    elif low is not None:
        parts.append(f"at least {low}")
    for key, unit in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "keys")):
        if key in node:
            parts.append(f"at most {node[key]} {unit}")
    return ", ".join(parts)


def _blamed(rule: Rule) -> str:
    return (rule.at + rule.field).removeprefix(".")


def _literal(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{}"
    return str(value)
