"""The rendezvous pod: the store of torchrun and the program that decides on rounds."""

import copy
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from torchrun_operator.api.names import (
    ANNOTATION_TOKEN_DIGEST,
    LABEL_ROLE,
    PORT_HTTP,
    PROGRAMS_DIRECTORY,
    READINESS_GATE,
    RENDEZVOUS_CONTAINER,
    ROLE_RENDEZVOUS,
    rendezvous_name,
)
from torchrun_operator.api.torchrun import program_directories, python_of
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.beside import (
    ANNOTATIONS,
    LABELS,
    POD_FIELDS,
    chosen,
    container_security,
    pod_security,
    shared_labels,
)
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.limits import Need, fitting, quantity, written
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules
from torchrun_operator.render.part import Manifest, total
from torchrun_operator.render.placement import placement
from torchrun_operator.render.programs import RENDEZVOUS_PROGRAM

_MEBI: Final = Decimal(1024**2)
_NEEDS: Final = {
    # Limits that are never reached, and set because a quota rejects pods without limits.
    "cpu": Need(Decimal("0.05"), Decimal(2), Decimal("0.5"), Decimal("0.001")),
    "memory": Need(512 * _MEBI, 2048 * _MEBI, 1024 * _MEBI, _MEBI),
    "ephemeral-storage": Need(64 * _MEBI, 1024 * _MEBI, 256 * _MEBI, _MEBI),
}
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
"""Variables of the trainer that decide which Python torchrun runs with, and what it can import."""


def rendezvous_pod(job: TorchrunJob, token_digest: str, rules: NamespaceRules = NO_RULES) -> Manifest:
    """Return the pod with the store: the job's own image (same torch, same wire format), no accelerator.

    What spec.rendezvous.template sets comes instead of what is taken from the template of the nodes.
    """
    piece = total(part.rendezvous(job) for part in PARTS)
    nodes, given = job.spec.template["spec"], (job.spec.rendezvous.template or {}).get("spec") or {}
    spec = {
        **chosen(nodes, POD_FIELDS),
        **placement(nodes),
        **pod_security(nodes),
        **{key: copy.deepcopy(value) for key, value in given.items() if key != "containers"},
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Never true: the pod is no node, and must not count as one where a disruption budget counts ready pods.
        "readinessGates": [{"conditionType": READINESS_GATE}],
        "containers": [_container(job, token_digest, rules)],
    }
    piece.add_to(spec, spec["containers"][0])
    metadata = owned_metadata(
        job,
        rendezvous_name(job.metadata.name),
        labels={**piece.labels, LABEL_ROLE: ROLE_RENDEZVOUS},
        annotations={**piece.annotations, ANNOTATION_TOKEN_DIGEST: token_digest},
        given=_given_metadata(job),
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _given_metadata(job: TorchrunJob) -> Manifest:
    given = (job.spec.rendezvous.template or {}).get("metadata") or {}
    return {
        "labels": {**shared_labels(job), **LABELS, **(given.get("labels") or {})},
        "annotations": {**ANNOTATIONS, **(given.get("annotations") or {})},
    }


def _container(job: TorchrunJob, token_digest: str, rules: NamespaceRules) -> Manifest:
    trainer, given = job.spec.trainer, _given_container(job)
    image = given.get("image") or trainer["image"]
    return {
        "name": RENDEZVOUS_CONTAINER,
        "image": image,
        **chosen({**trainer, **given}, ("imagePullPolicy",)),
        "command": _command(job, given),
        "env": [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
            *_environment(trainer),
            {"name": "RDZV_ID", "value": job.metadata.uid},
            {"name": "RDZV_PORT", "value": str(job.spec.rendezvous.port)},
            {"name": "RDZV_HTTP_PORT", "value": str(PORT_HTTP)},
            {"name": "RDZV_TOKEN_SHA256", "value": token_digest},
            {"name": "RDZV_IMAGE", "value": image},
            *copy.deepcopy(given.get("env") or []),
        ],
        "ports": [
            {"name": "store", "containerPort": job.spec.rendezvous.port, "protocol": "TCP"},
            {"name": "http", "containerPort": PORT_HTTP, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 5},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": _resources(trainer, given.get("resources") or {}, rules),
        "securityContext": {**container_security(trainer), **copy.deepcopy(given.get("securityContext") or {})},
    }


def _given_container(job: TorchrunJob) -> Mapping[str, Any]:
    spec = (job.spec.rendezvous.template or {}).get("spec") or {}
    return next(iter(spec.get("containers") or ()), {})


def _command(job: TorchrunJob, given: Mapping[str, Any]) -> list[str]:
    """Return the command. Unless it is given, the program looks for the Python that torchrun runs with."""
    program = f"{PROGRAMS_DIRECTORY}/{RENDEZVOUS_PROGRAM}"
    if given.get("command"):
        return [*given["command"], program]
    words = job.spec.command_of(1)  # that of the template: the lead may have its own
    return [python_of(words), program, "--search", *program_directories(words)]


def _environment(trainer: Mapping[str, Any]) -> list[Manifest]:
    return [
        {"name": variable["name"], "value": variable["value"]}
        for variable in trainer.get("env") or ()
        if variable.get("name") in _ENVIRONMENT and "value" in variable
    ]


def _resources(trainer: Mapping[str, Any], given: Mapping[str, Any], rules: NamespaceRules) -> Manifest:
    """Return requests and limits: both, because quotas ask for them, and such that LimitRanges accept them.

    Storage only where the trainer names it: then a quota may ask for it.
    """
    named = {name for kind in (trainer.get("resources") or {}).values() if isinstance(kind, dict) for name in kind}
    requests, limits = {}, {}
    for name, need in _NEEDS.items():
        if name == "ephemeral-storage" and name not in named:
            continue
        request, limit = fitting(need, name, rules.limit_ranges)
        requests[name], limits[name] = written(request, need.step), written(limit, need.step)
    wanted, most = given.get("requests") or {}, given.get("limits") or {}
    for name in {*wanted, *most}:  # where only one is given, the other follows
        if name not in most and name in limits and quantity(limits[name]) < quantity(wanted[name]):
            limits[name] = wanted[name]
        if name not in wanted and name in requests and quantity(requests[name]) > quantity(most[name]):
            requests[name] = most[name]
    return {"requests": {**requests, **wanted}, "limits": {**limits, **most}}
