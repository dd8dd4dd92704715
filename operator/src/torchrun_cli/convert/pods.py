"""Takes pod templates of other kinds of jobs over, without what the operator sets itself."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torchrun_cli.convert import fields
from torchrun_cli.convert.draft import POD, TRAINER, Draft
from torchrun_cli.convert.source import Path
from torchrun_cli.convert.view import View, text_of
from torchrun_operator.api.names import (
    GROUP,
    RESERVED_PREFIX,
    TERMINATION_LOG,
    is_reserved_env,
)

_SERVER: Final = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "ownerReferences",
)
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_REFUSED: Final = {
    "restartPolicy": "the operator replaces failed nodes, see spec.maxRestarts",
    "hostNetwork": "the addresses of pods identify nodes; for fast network cards, use a device plugin",
    "hostname": "every node has the host name <job>-<index>",
    "hostnameOverride": "every node has the host name <job>-<index>",
    "subdomain": "every node has the host name <job>-<index> in the service <job>",
    "activeDeadlineSeconds": "write spec.activeDeadlineSeconds, the deadline of the job",
}
_PORT: Final = "pytorchjob-port"


def metadata(draft: Draft, source: View) -> None:
    """Take the metadata of a job over, without what the API server sets."""
    for key, value in source.value.items():
        if key in ("labels", "annotations"):
            kept = {name: each for name, each in (value or {}).items() if name != _LAST_APPLIED}
            if kept:
                draft.metadata[key] = kept
        elif key not in (*_SERVER, "name"):
            draft.metadata[key] = value


def template(draft: Draft, source: View, container: Sequence[str]) -> dict[str, Any]:
    """Take a pod template over. `container`: the names that the trainer container may have.

    Returns the trainer container as it was. Raises ConvertError if it cannot be found.
    """
    meta = source.mapping("metadata")
    for kind in ("labels", "annotations"):
        kept = {name: each for name, each in meta.mapping(kind).value.items() if not name.startswith(f"{GROUP}/")}
        if kept:
            draft.pod_metadata[kind] = kept
    pod = source.required_mapping("spec", "a pod template with containers")
    for key, value in pod.value.items():
        if key in _REFUSED:
            refuse(draft, (*POD, key), key, value)
        elif key != "containers":
            draft.pod[key] = copy.deepcopy(value)
    trainer = _trainer(pod, container)
    draft.others = [copy.deepcopy(each) for each in pod.sequence("containers") if each is not trainer]
    _rename_volumes(draft, trainer)
    _take_container(draft, trainer)
    return trainer


def refuse(draft: Draft, path: Path, key: str, value: object) -> None:
    """Comment on a field that has no counterpart in the pod of a node. False and the default need no words."""
    if value and (key, value) != ("restartPolicy", "Never"):
        draft.note(path, f"{key}: {text_of(value)} has no counterpart: {_REFUSED[key]}.")


def environment(draft: Draft, variables: Sequence[Any]) -> list[Any]:
    """Return the variables that a job may set, and comment on the others."""
    kept = []
    for each in variables:
        name = each.get("name", "") if isinstance(each, dict) else ""
        if is_reserved_env(name):
            value = f"={each['value']}" if "value" in each else ""
            draft.note((*TRAINER, "env"), f"{name}{value} is taken out: the operator or torchrun sets it.")
        else:
            kept.append(each)
    return kept


def lead(draft: Draft, overrides: Mapping[str, Any]) -> None:
    """Write what differs in node 0."""
    if not overrides:
        return
    if fields.LEAD:
        draft.spec["lead"] = dict(overrides)
        return
    words = ", ".join(f"{key}: {value}" for key, value in overrides.items())
    draft.note(("spec", "lead"), f"Node 0 differed, and this version has no spec.lead: {words}.")


def lead_of(draft: Draft, first: Mapping[str, Any], others: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return what a container of node 0 has other than those of the other nodes, but for its command.

    What cannot differ becomes a comment. `title`: the name of node 0 in the source, such as Master.
    """
    found: dict[str, Any] = {}
    variables = [each for each in first.get("env") or [] if each not in (others.get("env") or [])]
    kept = [each for each in variables if not is_reserved_env(each.get("name", ""))]
    if kept:
        found["env"] = kept
    names = {each.get("name") for each in first.get("env") or []}
    missing = [each["name"] for each in others.get("env") or [] if each.get("name") not in names]
    if missing:
        draft.note((*TRAINER, "env"), f"{title} did not have {', '.join(missing)}: here every node has it.")
    if first.get("resources") and first.get("resources") != others.get("resources"):
        found["resources"] = first["resources"]
    handled = ("name", "command", "args", "env", "resources", "ports")
    for key in dict.fromkeys((*first, *others)):
        if key not in handled and first.get(key) != others.get(key):
            words = first.get(key, "nothing")
            draft.note((*TRAINER, key), f"{title} had {key}: {words}. All nodes have the same {key} here; choose one.")
    return found


def _trainer(pod: View, names: Sequence[str]) -> dict[str, Any]:
    containers = [*pod.items("containers")]
    if not containers:
        raise pod.error(f"{pod.name('containers')} is missing; write the container {names[0]}", "containers")
    named = [each for each in containers if each.get("name") in names]
    if not named and len(containers) > 1:
        raise pod.error(f"{pod.name('containers')}: no container is called {names[0]}; name one so", "containers")
    return (named or containers)[0].value


def _take_container(draft: Draft, trainer: dict[str, Any]) -> None:
    for key, value in trainer.items():
        if key == "env":
            draft.trainer["env"] = environment(draft, value or [])
        elif key == "ports":
            ports = [port for port in value or [] if port.get("name") != _PORT]
            if ports:
                draft.trainer["ports"] = ports
        elif key == "restartPolicy":
            refuse(draft, (*TRAINER, key), key, value)
        elif key == "terminationMessagePath":
            if value != TERMINATION_LOG:
                draft.note((*TRAINER, key), f"{key}: {value} is taken out: the operator reads {TERMINATION_LOG}.")
        elif key not in ("name", "command", "args"):
            draft.trainer[key] = copy.deepcopy(value)
    if not draft.trainer.get("env"):
        draft.trainer.pop("env", None)


def _rename_volumes(draft: Draft, trainer: dict[str, Any]) -> None:
    """Give volumes whose names the operator uses other names."""
    names = [volume.get("name", "") for volume in draft.pod.get("volumes") or []]
    taken = {name: f"user-{name}" for name in names if name.startswith(RESERVED_PREFIX)}
    containers = [trainer, *draft.others, *(draft.pod.get("initContainers") or [])]
    mounts = [mount for each in containers for mount in each.get("volumeMounts") or []]
    for item in (*(draft.pod.get("volumes") or []), *mounts):
        if item.get("name") in taken:
            item["name"] = taken[item["name"]]
