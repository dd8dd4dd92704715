"""Turns models of the Kubernetes client into structural schemas without descriptions: pod and claim templates."""

import types
from collections.abc import Collection, Mapping
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

Only = Mapping[str, Collection[str]]
"""The fields of a model that a schema has. Other models have all."""
_ONLY: Only = {"V1ObjectMeta": {"labels", "annotations"}}
"""The operator sets all other metadata of a template."""
_RENDEZVOUS_ONLY: Only = {
    "V1PodSpec": {
        "affinity", "containers", "image_pull_secrets", "node_selector", "priority_class_name", "runtime_class_name",
        "scheduler_name", "security_context", "service_account_name", "tolerations", "topology_spread_constraints",
    },
    "V1Container": {"command", "env", "image", "image_pull_policy", "name", "resources", "security_context"},
    "V1ResourceRequirements": {"limits", "requests"},
    "V1PodSecurityContext": {
        "app_armor_profile", "fs_group", "fs_group_change_policy", "run_as_group", "run_as_non_root", "run_as_user",
        "se_linux_options", "seccomp_profile", "supplemental_groups", "supplemental_groups_policy",
    },
    "V1SecurityContext": {
        "app_armor_profile", "read_only_root_filesystem", "run_as_group", "run_as_non_root", "run_as_user",
        "se_linux_options", "seccomp_profile",
    },
}  # fmt: skip
"""The rendezvous pod gets no rights beyond those of its user: neither privileges nor capabilities."""
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
    return _object(models.V1PodTemplateSpec, _ONLY)


def rendezvous_template() -> Schema:
    """Return the schema of the part of a PodTemplateSpec that a job may set for the rendezvous pod."""
    schema = _object(models.V1PodTemplateSpec, {**_ONLY, **_RENDEZVOUS_ONLY})
    for part in (schema, schema["properties"]["spec"]):
        del part["required"]
    return schema


def container_field(name: str) -> Schema:
    """Return the schema of a field of a container."""
    return _field("V1Container", name, models.V1Container.model_fields[name], _ONLY)


def claim_template() -> Schema:
    """Return the schema of a PersistentVolumeClaimTemplate."""
    return _object(models.V1PersistentVolumeClaimTemplate, _ONLY)


def _object(model: type[BaseModel], only: Only) -> Schema:
    name = model.__name__
    fields = {
        key: field
        for key, field in model.model_fields.items()
        if (name, key) not in _LEFT_OUT and key in only.get(name, {key})
    }
    if not fields:
        return {"type": "object"}
    result: Schema = {
        "type": "object",
        "properties": {_wire_name(key, field): _field(name, key, field, only) for key, field in sorted(fields.items())},
    }
    required = sorted(
        _wire_name(key, field) for key, field in fields.items() if field.is_required() or (name, key) in _REQUIRED
    )
    return result | ({"required": required} if required else {})


def _wire_name(key: str, field: FieldInfo) -> str:
    return field.serialization_alias or key


def _field(model: str, key: str, field: FieldInfo, only: Only) -> Schema:
    schema = _type(field.annotation, only)
    if (model, key) in _QUANTITIES:
        schema = _QUANTITY if schema["type"] == "string" else schema | {"additionalProperties": _QUANTITY}
    if (model, key) in _KEYS:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [_KEYS[model, key]]}
    return schema


def _type(annotation: Any, only: Only) -> Schema:  # noqa: ANN401
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], only)
    if origin in (Union, types.UnionType):
        return _union([argument for argument in arguments if argument is not types.NoneType], only)
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], only)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], only)}
    if annotation is datetime:
        return {"type": "string", "format": "date-time"}
    if issubclass(annotation, BaseModel):
        return _object(annotation, only)
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]}


def _union(choices: list[Any], only: Only) -> Schema:
    if len(choices) == 1:
        return _type(choices[0], only)
    kinds = {_type(choice, only)["type"] for choice in choices}
    if kinds == {"integer", "string"}:
        return dict(INT_OR_STRING)
    raise ValueError(f"a structural schema has no union of {kinds}")
