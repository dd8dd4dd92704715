"""Writes the reference of TorchrunJob from the schema that the API server uses."""

from collections.abc import Iterator

from crd import schema
from model_schema import Schema
from rules import RULES, Rule

from torchrun_operator.api.names import API_VERSION, CATEGORIES, KIND, SHORT_NAME

_HEAD = f"""<!-- Generated from operator/src/torchrun_operator/api by operator/codegen/generate.py; do not edit. -->
# {KIND}

`{API_VERSION}`, short name `{SHORT_NAME}`, in the categories {" and ".join(f"`{name}`" for name in CATEGORIES)}.
`kubectl explain {SHORT_NAME}.spec` shows the same in a terminal. [How it works](../concepts/overview.md) describes what
the fields do, and the [glossary](../concepts/glossary.md) defines the words.

Unknown fields are errors, also in the pod template: `kubectl apply` and `kubectl create` reject them.
"""
_SPEC = """
## spec

"""
_STATUS = """
## status

Only the operator writes the status.

"""
_RULES = """
## Rules

The API server rejects a job that breaks one of these rules, and shows the message.

| Field | Message |
| --- | --- |
"""
_SCALE = """
## Scaling

`kubectl scale trj/NAME --replicas=N` and autoscalers change `spec.replicas` through the `scale` subresource. Set
`spec.replicas` if you use a HorizontalPodAutoscaler: without it, the autoscaler assumes that the job is scaled to 0 and
leaves it alone.
"""
_OPAQUE = ("spec.template", "spec.snapshots.volumeClaimTemplate")
"""Types of Kubernetes. The reference does not repeat their fields."""


def reference() -> str:
    """Return the reference as Markdown."""
    root = schema()["properties"]
    rules = "".join(f"| `{_blamed(rule)}` | {_cell(rule.message)} |\n" for rule in RULES)
    return (
        _HEAD
        + _SPEC
        + _table("spec", root["spec"])
        + _RULES
        + rules
        + _SCALE
        + _STATUS
        + _table("status", root["status"])
    )


def _table(path: str, node: Schema) -> str:
    head = "| Field | Type | Default | Description |\n| --- | --- | --- | --- |\n"
    return head + "".join(_rows(path, node))


def _rows(path: str, node: Schema) -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        field = f"{path}.{name}"
        required = " (required)" if name in node.get("required", []) else ""
        default = f"`{_literal(child['default'])}`" if "default" in child else ""
        yield f"| `{field}`{required} | {_type(child)} | {default} | {_cell(child['description'])} |\n"
        if field not in _OPAQUE:
            yield from _rows(f"{field}[]" if "items" in child else field, child.get("items", child))


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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
