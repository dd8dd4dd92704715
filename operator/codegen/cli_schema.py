"""The schema of a TorchrunJob for `kubectl torchrun validate`: that of the CRD without descriptions and rules."""

import json
from typing import Any

from crd import schema
from model_schema import Schema

_LEFT_OUT = {"description", "default", "x-kubernetes-validations", "x-kubernetes-list-type", "anyOf"}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "generateName": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
        "finalizers": {"type": "array", "items": {"type": "string"}},
        "ownerReferences": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    },
}
"""The metadata that a user may write. The API server checks it by itself, so the CRD does not describe it."""


def cli_schema() -> str:
    """Return the schema as a JSON document."""
    root = _stripped(schema())
    root["properties"]["metadata"] = _METADATA
    del root["properties"]["status"]
    head = {
        "$comment": "Generated from operator/src/torchrun_operator/api by operator/codegen/generate.py; do not edit."
    }
    return json.dumps(head | root, indent=1) + "\n"


def _stripped(node: Any) -> Any:  # noqa: ANN401 any part of a schema
    if isinstance(node, list):
        return [_stripped(each) for each in node]
    if not isinstance(node, dict):
        return node
    result = {key: _stripped(value) for key, value in node.items() if key not in _LEFT_OUT}
    if isinstance(properties := node.get("properties"), dict):
        # A field may have the name of a keyword.
        result["properties"] = {name: _stripped(child) for name, child in properties.items()}
    return result
