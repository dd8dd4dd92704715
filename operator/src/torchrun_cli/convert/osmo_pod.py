"""What a task of OSMO asks of its pod: resources, secrets, volumes."""

import re
from typing import Any, Final

from torchrun_cli.convert.draft import POD, TRAINER, Draft, number
from torchrun_cli.convert.emit import one_line
from torchrun_cli.convert.launch import GPU
from torchrun_cli.convert.osmo_tasks import Task
from torchrun_cli.convert.view import View, text_of

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 a path in the pod
_QUANTITIES: Final = (("cpu", "cpu", False), ("memory", "memory", True), ("storage", "ephemeral-storage", False))
"""The field of OSMO, the resource of Kubernetes, and whether the request is the limit too."""
_KNOWN: Final = ("cpu", "memory", "storage", "gpu", "platform", "nodesExcluded", "topology")


def resources_of(workflow: View, task: Task) -> View:
    """Return the resource spec of a task. Raises ConvertError if it names one that is not there."""
    specs = workflow.mapping("resources")
    name = task.source.text("resource", "default")
    if name != "default" and not specs.has(name):
        raise task.source.error(
            f"{task.source.name('resource')}: {name} is not in {specs.name()}; write one of its names", "resource"
        )
    return specs.mapping(name)


def requirements(resources: View) -> dict[str, Any]:
    """Return the resources of a container."""
    requests, limits = {}, {}
    for field, name, limited in _QUANTITIES:
        if resources.has(field):
            value = number(resources.text(field))
            requests[name] = value
            if limited:
                limits[name] = value
    if resources.has("gpu") and resources.get("gpu") != 0:
        limits[GPU] = number(resources.text("gpu"))
    found = {"requests": requests, "limits": limits}
    return {kind: values for kind, values in found.items() if values}


def gpus(resources: View, values: str) -> int:
    """Return the number of GPUs of a node. `values`: the text of the field, with the values of expressions."""
    return int(values) if resources.has("gpu") and values.isdigit() else 0


def placement(draft: Draft, resources: View) -> None:
    """Write where the pods may run, and comment on what only OSMO knows."""
    if excluded := resources.words("nodesExcluded"):
        rule = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": excluded}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
        draft.pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    if resources.has("platform"):
        draft.note(
            (*POD, "nodeSelector"),
            f"platform: {resources.text('platform')} has no counterpart: write a nodeSelector with the label of "
            "these Kubernetes nodes, such as nvidia.com/gpu.product.",
        )
    for each in resources.items("topology"):
        kind = each.text("requirementType", "required")
        draft.note(
            (*POD, "affinity"),
            f"topology: {each.text('key')} ({kind}) has no counterpart: write a podAffinity with the topologyKey of "
            "your Kubernetes nodes, and matchLabels (torchrun.dev/job-name: the name of the job).",
        )
    for key in resources.value:
        if key not in _KNOWN:
            draft.note((*TRAINER, "resources"), f"resources.{key}: {one_line(resources.get(key))} is not known.")


def credentials(draft: Draft, task: Task) -> None:
    """Write the secrets of a task: as variables, or as files."""
    for name, value in task.source.mapping("credentials").value.items():
        secret = re.sub("[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "credentials"
        if isinstance(value, dict):
            for variable, key in value.items():
                reference = {"secretKeyRef": {"name": secret, "key": text_of(key)}}
                draft.trainer.setdefault("env", []).append({"name": variable, "valueFrom": reference})
            literals = " ".join(f"--from-literal={key}=..." for key in value.values())
            place = (*TRAINER, "env")
        else:
            draft.pod.setdefault("volumes", []).append({"name": secret, "secret": {"secretName": secret}})
            mount = {"name": secret, "mountPath": text_of(value), "readOnly": True}
            draft.trainer.setdefault("volumeMounts", []).append(mount)
            literals, place = "--from-file=...", (*POD, "volumes")
        draft.note(place, f"The credential {name} must be a Secret: kubectl create secret generic {secret} {literals}")


def volumes(draft: Draft, task: Task) -> None:
    """Write the directories of the Kubernetes node that a task mounts."""
    for index, value in enumerate(task.source.words("volumeMounts")):
        source, _, target = value.partition(":")
        name = f"host-{index}"
        if source == _SHARED_MEMORY:
            volume: dict[str, Any] = {"name": name, "emptyDir": {"medium": "Memory"}}
            draft.note((*POD, "volumes"), f"{source} is memory of the pod here: it counts against the memory limit.")
        else:
            volume = {"name": name, "hostPath": {"path": source}}
            draft.note((*POD, "volumes"), f"{source} is a hostPath: policies of the cluster may forbid it.")
        draft.pod.setdefault("volumes", []).append(volume)
        mount = {"name": name, "mountPath": target or source}
        draft.trainer.setdefault("volumeMounts", []).append(mount)


def security(draft: Draft, task: Task) -> None:
    """Write whether the container is privileged, and comment on the host's network."""
    if task.source.get("privileged"):
        draft.trainer["securityContext"] = {"privileged": True}
    if task.source.get("hostNetwork"):
        words = "the addresses of pods identify nodes; for fast network cards, use a device plugin"
        draft.note((*POD, "hostNetwork"), f"hostNetwork: true has no counterpart: {words}.")
