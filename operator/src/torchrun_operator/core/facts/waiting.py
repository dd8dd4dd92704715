"""Why a pod does not run yet: what the scheduler and the kubelet write into its status, and into its events. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from torchrun_operator.core.facts.model import NO_WAIT, Exit, Facts, Wait

_CHARACTERS = 4096
"""Maximum size of a message that is kept."""
_CREATING = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons of a waiting container that name no cause."""
INITIALIZING = "PodInitializing"
PULLING = "Pulling"
UNHEALTHY = "Unhealthy"
"""A probe fails: the container runs, but is not ready."""
_UNTELLING = re.compile(r"timed out waiting for the condition|context deadline exceeded|^Error: \w+$")
"""Parts of messages that say less than the earlier messages of the same pod."""
_STAGES = {"Pulling": 1, "Pulled": 2, "Created": 3, "Started": 3}
"""Normal events of a kubelet. Volumes are mounted before the first of them."""


def waiting(status: Mapping[str, Any], main: str) -> Wait:
    """Return why the pod waits, from its status. A pod whose container ``main`` has started does not wait."""
    inits, containers = status.get("initContainerStatuses") or (), status.get("containerStatuses") or ()
    states = [(c.get("state") or {}) for c in containers if c.get("name") == main]
    if any(state.get("running") is not None or state.get("terminated") is not None for state in states):
        return NO_WAIT
    for container in (*inits, *containers):
        found = (container.get("state") or {}).get("waiting") or {}
        if (found.get("reason") or "") not in _CREATING:
            return Wait(
                reason=str(found["reason"]),
                message=_text(found.get("message")),
                container=str(container.get("name") or ""),
                ended=exit_of((container.get("lastState") or {}).get("terminated")),
            )
    return _unscheduled(status) or _initializing(status, inits) or NO_WAIT


def _unscheduled(status: Mapping[str, Any]) -> Wait | None:
    found = condition(status, "PodScheduled")
    if found is None or found.get("status") != "False":
        return None
    return Wait(reason=str(found.get("reason") or "Unschedulable"), message=_text(found.get("message")))


def _initializing(status: Mapping[str, Any], inits: Iterable[Mapping[str, Any]]) -> Wait | None:
    """Return the init container that the pod waits for: the last one that runs. Sidecars before it run too."""
    found = condition(status, "Initialized")
    if found is not None and found.get("status") == "True":
        return None
    for container in reversed([*inits]):
        runs = (container.get("state") or {}).get("running")
        if runs is not None:
            name = str(container.get("name") or "")
            return Wait(reason=INITIALIZING, container=name, since=time_of(runs.get("startedAt")))
    return None


def told(events: Iterable[Mapping[str, Any]]) -> Wait:
    """Return why a pod waits, from its events: the most telling newest warning, or the image that it pulls.

    The kubelet writes all of them but those of the scheduler and of the volume controller, so their order is certain.
    A warning from before the newest step of the kubelet is over.
    """
    found = sorted(events, key=_moment)
    steps = [event for event in found if event.get("type") != "Warning" and event.get("reason") in _STAGES]
    passed = _moment(steps[-1]) if steps else ""
    warnings = [
        event
        for event in found
        if event.get("type") == "Warning" and _moment(event) >= passed and event.get("reason") != "FailedScheduling"
    ]
    telling = [event for event in warnings if not _UNTELLING.search(_text(event.get("message")))]
    newest = next(reversed(telling or warnings), None)
    if newest is None and steps and steps[-1].get("reason") == PULLING:
        newest = steps[-1]
    if newest is None:
        return NO_WAIT
    return Wait(
        reason=str(newest.get("reason") or "Warning"),
        message=_text(newest.get("message")),
        container=_container(newest),
        since=time_of(newest.get("firstTimestamp") or newest.get("eventTime")),
    )


def completed(facts: Facts, heard: Mapping[str, Wait]) -> Facts:
    """Return the facts with what the events of pods tell, by uid. A pod whose events tell nothing stays as it is."""
    telling = {uid: wait for uid, wait in heard.items() if wait.reason}
    host = facts.rendezvous_pod
    return replace(
        facts,
        nodes=tuple(replace(node, wait=telling[node.uid]) if node.uid in telling else node for node in facts.nodes),
        rendezvous_pod=replace(host, wait=telling.get(host.uid, host.wait)) if host is not None else None,
    )


def names_no_cause(wait: Wait) -> bool:
    """Whether only the events of the pod can tell why it waits."""
    image = wait.reason == "ImagePullBackOff" and ": " not in wait.message  # before Kubernetes 1.31
    return not wait.reason or image


def exit_of(ended: Mapping[str, Any] | None) -> Exit | None:
    """Return how a container ended."""
    if not ended:
        return None
    return Exit(
        code=int(ended.get("exitCode", 0)),
        reason=str(ended.get("reason") or ""),
        message=str(ended.get("message") or "").strip()[-_CHARACTERS:],
        finished_at=time_of(ended.get("finishedAt")),
    )


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return the condition of a pod with that type."""
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), None)


def time_of(text: str | None) -> datetime | None:
    """Return the time that the API server writes as text."""
    return datetime.fromisoformat(text) if text else None


def _text(message: object) -> str:
    return str(message or "").strip()[:_CHARACTERS]


def _moment(event: Mapping[str, Any]) -> str:
    """Return when an event was last seen. Texts of one format have the order of their times."""
    series = event.get("series") or {}
    last = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event.get("firstTimestamp") or "")


def _container(event: Mapping[str, Any]) -> str:
    """Return the container of an event, from a path such as ``spec.containers{trainer}``."""
    path = str((event.get("involvedObject") or {}).get("fieldPath") or "")
    return path.partition("{")[2].rstrip("}")
