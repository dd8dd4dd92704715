"""Turns pydantic models into structural OpenAPI schemas, as a CustomResourceDefinition needs them."""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

INT_OR_STRING: Schema = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """Return the model's structural schema; with ``defaults`` the API server sets omitted fields.

    Free-form mappings become objects that keep everything: the caller replaces them.
    """
    document = model.model_json_schema(by_alias=True)
    return _convert(document, document.get("$defs", {}), defaults=defaults)


def _convert(node: Schema, definitions: Schema, *, defaults: bool) -> Schema:
    node = _resolved(node, definitions)
    if "anyOf" in node:
        return _int_or_string(node, defaults=defaults)
    result = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "properties" in node:
        result["properties"] = {
            name: _convert(child, definitions, defaults=defaults) for name, child in node["properties"].items()
        }
    elif isinstance(values := node.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(values, definitions, defaults=defaults)
    elif node.get("type") == "object":
        result["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in node:
        result["items"] = _convert(node["items"], definitions, defaults=defaults)
    if defaults:
        result |= _default(node, result)
    return result


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """Follow a reference and drop the null of an optional field. Keys beside them win, descriptions for example."""
    beside = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
    if "$ref" in node:
        return _resolved(definitions[node["$ref"].removeprefix("#/$defs/")] | beside, definitions)
    choices = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    if len(choices) == 1:
        return _resolved(choices[0] | beside, definitions)
    return node


def _int_or_string(node: Schema, *, defaults: bool) -> Schema:
    kinds = {choice.get("type") for choice in node["anyOf"]}
    if kinds != {"integer", "string"}:
        raise ValueError(f"a structural schema has no union of {kinds}")
    result = INT_OR_STRING | {"description": node["description"]}
    if defaults:
        result |= _default(node, result)
    return result


def _default(node: Schema, converted: Schema) -> Schema:
    """Return the default: empty for an object that has defaults inside, none for an empty collection."""
    value = node.get("default")
    if value is None or value in ([], {}):
        return {}
    if isinstance(value, dict):
        inner = any("default" in child for child in converted.get("properties", {}).values())
        return {"default": {}} if inner else {}
    return {"default": value}
