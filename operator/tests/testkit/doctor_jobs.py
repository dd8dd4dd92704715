"""A job and the objects around it, for the tests of `kubectl torchrun doctor`. By default, nothing is wrong."""

import copy
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from torchrun_cli.doctor.case import JobCase, job_case
from torchrun_cli.doctor.findings import Finding, Level, Listed, Seen
from torchrun_operator.api.v1alpha1 import job_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
Manifest = dict[str, Any]
Row = tuple[Any, ...]
"""A finding without the name of its check."""
OK, UNKNOWN, WARNING, FAILED = Level.OK, Level.UNKNOWN, Level.WARNING, Level.FAILED


def job(state: str | None = "Running", *, conditions: tuple[Manifest, ...] = (), **spec: Any) -> Manifest:
    """Return a job of two or three nodes with a GPU each."""
    container = {
        "name": "trainer",
        "image": "train:1",
        "command": ["torchrun", "train.py"],
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"nvidia.com/gpu": "1", "memory": "4Gi"}},
    }
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": "digits", "namespace": "ml", "uid": "u", "creationTimestamp": "2026-01-31T11:00:00Z"},
        "spec": {"nnodes": "2:3", "template": {"spec": {"containers": [container]}}, **spec},
        "status": {"state": state, "conditions": [*conditions]} if state is not None else {},
    }


def with_trainer(found: Manifest, **fields: Any) -> Manifest:
    """Return the job with other fields of the trainer container."""
    changed = copy.deepcopy(found)
    changed["spec"]["template"]["spec"]["containers"][0] |= fields
    return changed


def with_template(found: Manifest, **fields: Any) -> Manifest:
    """Return the job with other fields of the pod."""
    changed = copy.deepcopy(found)
    changed["spec"]["template"]["spec"] |= fields
    return changed


def condition(kind: str, status: str, reason: str, message: str, at: str = "11:30:00") -> Manifest:
    """Return a condition."""
    since = f"2026-01-31T{at}Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def pod(name: str, *, role: str = "node", on: str | None = "w1", of: str = "u", **status: Any) -> Manifest:
    """Return a pod of the job: `0` is that of node 0. ``on``: its Kubernetes node."""
    labels = {"torchrun.dev/job-name": "digits", "torchrun.dev/role": role}
    if role == "node":
        labels["torchrun.dev/node-index"] = name
    trainer = {"name": "trainer", "resources": {"requests": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}}}
    started = {"phase": "Running", "containerStatuses": [{"name": "trainer", "ready": True}], "podIP": "10.1.0.9"}
    return {
        "metadata": {
            "name": f"digits-{name}",
            "namespace": "ml",
            "labels": labels,
            "creationTimestamp": "2026-01-31T11:00:00Z",
            "ownerReferences": [{"uid": of}],
        },
        "spec": {"containers": [trainer], **({"nodeName": on} if on else {})},
        "status": status or (started if on else {"phase": "Pending"}),
    }


def host(*, ready: bool = True, restarts: int = 0, **more: Any) -> Manifest:
    """Return the rendezvous pod."""
    containers = [{"name": "rendezvous", "ready": ready, "restartCount": restarts}]
    return pod("rdzv", role="rendezvous", phase="Running", containerStatuses=containers, **more)


PODS = (host(), pod("0"), pod("1"), pod("2"))


def named(kind: str, name: str, **fields: Any) -> Manifest:
    """Return another object of the namespace."""
    return {"kind": kind, "metadata": {"name": name, "namespace": "ml", **fields.pop("metadata", {})}, **fields}


def computer(name: str, gpus: int = 8, *, cpu: str = "16", memory: str = "64Gi", **fields: Any) -> Manifest:
    """Return a Kubernetes node."""
    allocatable = {"cpu": cpu, "memory": memory, "pods": "110", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": fields.pop("ready", "True")}]}
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **fields.pop("labels", {})}}
    return {"metadata": metadata, "spec": fields, "status": status}


def seen(**lists: Listed) -> Seen:
    """Return what was read: the pods of the job, and these lists."""
    given: dict[str, Listed] = {"pods": PODS, **lists}
    return Seen(NOW, given, NOW)


def case(found: Manifest, *problems: str, **lists: Listed) -> JobCase:
    """Return the case of a job."""
    return job_case(found, None if problems else job_of(found), problems, seen(**lists))


def check(found: Callable[[JobCase, str], Iterable[Finding]], of: JobCase, *expected: Row) -> None:
    """Compare all that a check finds."""
    assert list(found(of, "c")) == [Finding("c", *row) for row in expected]
