"""Turns models of the Kubernetes client into structural schemas without descriptions: pod and claim templates."""

import types
from datetime import datetime
from typing import Annotated, Any, Union, get_args, get_origin

from kubernetes.client import models
from model_schema import INT_OR_STRING, Schema
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_QUANTITY = INT_OR_STRING | {
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
}
_QUANTITIES = {
    ("V1EmptyDirVolumeSource", "size_limit"),
    ("V1PodSpec", "overhead"),
    ("V1ResourceFieldSelector", "divisor"),
    ("V1ResourceRequirements", "limits"),
    ("V1ResourceRequirements", "requests"),
    ("V1VolumeResourceRequirements", "limits"),
    ("V1VolumeResourceRequirements", "requests"),
}
"""Quantities. The client models them as strings; the API server also accepts numbers."""

_ONLY = {"V1ObjectMeta": {"labels", "annotations"}}
"""The operator sets all other metadata of a template."""
_LEFT_OUT = {
    # Pods cannot be created with them.
    ("V1PodSpec", "ephemeral_containers"),
}
_REQUIRED = {("V1PodTemplateSpec", "spec")}
"""Fields that a Pod requires although its template does not."""
_KEYS = {
    ("V1PodSpec", "containers"): "name",
    ("V1PodSpec", "init_containers"): "name",
    ("V1PodSpec", "volumes"): "name",
    ("V1Container", "env"): "name",
    ("V1Container", "volume_mounts"): "mountPath",
}
"""Lists that merge by key, as in a Pod, so that several field managers can share them."""


def pod_template() -> Schema:
    """Return the schema of a PodTemplateSpec."""
    return _object(models.V1PodTemplateSpec)


def claim_template() -> Schema:
    """Return the schema of a PersistentVolumeClaimTemplate."""
    return _object(models.V1PersistentVolumeClaimTemplate)


def _object(model: type[BaseModel]) -> Schema:
    name = model.__name__
    fields = {
        key: field
        for key, field in model.model_fields.items()
        if (name, key) not in _LEFT_OUT and key in _ONLY.get(name, {key})
    }
    if not fields:
        return {"type": "object"}
    result: Schema = {
        "type": "object",
        "properties": {_wire_name(key, field): _field(name, key, field) for key, field in sorted(fields.items())},
    }
    required = sorted(
        _wire_name(key, field) for key, field in fields.items() if field.is_required() or (name, key) in _REQUIRED
    )
    return result | ({"required": required} if required else {})


def _wire_name(key: str, field: FieldInfo) -> str:
    return field.serialization_alias or key


def _field(model: str, key: str, field: FieldInfo) -> Schema:
    schema = _type(field.annotation)
    if (model, key) in _QUANTITIES:
        schema = _QUANTITY if schema["type"] == "string" else schema | {"additionalProperties": _QUANTITY}
    if (model, key) in _KEYS:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [_KEYS[model, key]]}
    return schema


def _type(annotation: Any) -> Schema:  # noqa: ANN401
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return _union([argument for argument in arguments if argument is not types.NoneType])
    if origin is list:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if annotation is datetime:
        return {"type": "string", "format": "date-time"}
    if issubclass(annotation, BaseModel):
        return _object(annotation)
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]}


def _union(choices: list[Any]) -> Schema:
    if len(choices) == 1:
        return _type(choices[0])
    kinds = {_type(choice)["type"] for choice in choices}
    if kinds == {"integer", "string"}:
        return dict(INT_OR_STRING)
    raise ValueError(f"a structural schema has no union of {kinds}")
