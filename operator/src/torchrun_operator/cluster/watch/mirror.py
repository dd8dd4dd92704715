"""Mirrors of the jobs' pods and of the cluster's machines, kept by one LIST and a WATCH from it on: reading them costs
nothing, and what changes wakes the jobs it concerns. Nothing is missed: where the API server no longer has the events
since the last one seen, all are listed.

kopf could watch pods too, but it copies, diffs and schedules each event for handlers that need none of it: with 450
pods starting that took three quarters of the operator's processor time.
"""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torchrun_operator.api.names import LABEL_JOB_NAME
from torchrun_operator.cluster.port import ClusterError, Key, Manifest

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_WATCH_SECONDS = 300
_GONE = 410
"""The API server no longer has the events since the resource version asked for."""
_FORBIDDEN = 403
_FORBIDDEN_RETRY_SECONDS = 300.0
_REMEMBERED_MACHINES = 10_000


class Api(Protocol):
    """The requests that a mirror needs. Both raise ClusterError."""

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a list."""
        ...

    def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Return the events of a watch, a line of JSON each; it ends when the server ends it."""
        ...


class _Mirror(ABC):
    """Follows one collection."""

    def __init__(self, api: Api, path: str, what: str, query: Mapping[str, str]) -> None:
        """Path is the collection's, `what` its name for people."""
        self._api = api
        self._path = path
        self._what = what
        self._query = dict(query)
        self._version = 0
        """The resource version up to which everything has been seen."""
        self._synced = asyncio.Event()
        """Set once there is something to tell, or it is clear that there will not be."""

    async def run(self) -> None:
        """Follow the collection for ever."""
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                version = await self._watch(version)
            except ClusterError as error:
                if error.status == _GONE:
                    version = None
                    continue
                logger.warning("the %s cannot be watched, trying again: %s", self._what, error)
                await asyncio.sleep(self._pause(error))

    def _pause(self, error: ClusterError) -> float:
        """Return how many seconds to wait after an error."""
        return _RETRY_SECONDS

    async def _list(self) -> str:
        answer = await self._api.list(self._path, self._query)
        self._replace(answer["items"])
        self._synced.set()
        return self._seen(answer)

    def _seen(self, thing: Mapping[str, Any]) -> str:
        version: str = thing["metadata"]["resourceVersion"]
        self._version = int(version)
        return version

    async def _watch(self, version: str) -> str:
        """Follow until the stream ends; return the resource version to go on from."""
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        async for line in self._api.watch(self._path, query):
            kind, thing = _event(line)
            if kind == "ERROR":
                raise ClusterError(thing.get("code", 0), thing.get("reason", "Error"), thing.get("message", ""))
            version = self._seen(thing)
            if kind == "DELETED":
                self._remove(thing)
            elif kind != "BOOKMARK":
                self._put(thing)
        return version

    @abstractmethod
    def _replace(self, things: Iterable[Mapping[str, Any]]) -> None:
        """Take over all there is."""

    @abstractmethod
    def _put(self, thing: Mapping[str, Any]) -> None:
        """Take over one that is new or has changed."""

    @abstractmethod
    def _remove(self, thing: Mapping[str, Any]) -> None:
        """Take out one that has been deleted."""


class PodMirror(_Mirror):
    """The pods that carry a job's label, in one namespace or in all."""

    def __init__(self, api: Api, path: str, wake: Callable[[Key], None]) -> None:
        """Path is the collection's; wake is told (namespace, job) of each pod that changes."""
        super().__init__(api, path, "pods", {"labelSelector": LABEL_JOB_NAME})
        self._wake = wake
        self._pods: dict[Key, dict[str, Manifest]] = {}

    async def pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the job's pods as they were last seen; waits until they have been listed once."""
        await self._synced.wait()
        return list(self._pods.get((namespace, job), {}).values())

    def created(self, pod: Manifest) -> None:
        """Show a pod that has just been created already before the watch tells of it: a mirror that lags would show the
        pod before of that name, whose place it has taken. What the watch has told of is newer, and stays.
        """
        if int(pod["metadata"]["resourceVersion"]) > self._version:
            self._keep(pod)

    def wake_jobs_on(self, machine: str) -> None:
        """Wake the jobs that have pods on that machine."""
        for key, pods in list(self._pods.items()):
            if any(pod["spec"].get("nodeName") == machine for pod in pods.values()):
                self._wake(key)

    def _replace(self, things: Iterable[Mapping[str, Any]]) -> None:
        before, self._pods = self._pods, {}
        for pod in things:
            self._keep(pod)
        for key in {*before, *self._pods}:
            self._wake(key)

    def _put(self, thing: Mapping[str, Any]) -> None:
        self._keep(thing)
        self._wake(_key(thing))

    def _remove(self, thing: Mapping[str, Any]) -> None:
        key = _key(thing)
        pods = self._pods.get(key, {})
        pods.pop(thing["metadata"]["name"], None)
        if not pods:
            self._pods.pop(key, None)
        self._wake(key)

    def _keep(self, pod: Mapping[str, Any]) -> None:
        self._pods.setdefault(_key(pod), {})[pod["metadata"]["name"]] = _trimmed(pod)


class MachineMirror(_Mirror):
    """The cluster's nodes, and of each no more than says whether its pods can be counted on."""

    def __init__(self, api: Api, changed: Callable[[str], None]) -> None:
        """Changed is told the name of each machine of which something kept has changed."""
        super().__init__(api, "api/v1/nodes", "cluster's nodes", {})
        self._changed = changed
        self._machines: dict[str, Manifest] = {}
        self._removed: dict[str, None] = {}
        """Names of machines that were there once: one never seen may be a new one."""

    async def machines(self, names: Collection[str]) -> Mapping[str, Manifest | None]:
        """Return those of these machines that are known, as they were last seen; None: it has been removed.

        Where not one machine of the cluster is ready, it is the API server that is cut off, not all machines that have
        died at once; and a new pod could run nowhere. Then nothing is known.
        """
        await self._synced.wait()
        if not any(_ready(machine) for machine in self._machines.values()):
            return {}
        known: dict[str, Manifest | None] = {name: None for name in names if name in self._removed}
        return known | {name: self._machines[name] for name in names if name in self._machines}

    def _pause(self, error: ClusterError) -> float:
        if error.status != _FORBIDDEN:
            return super()._pause(error)
        # The operator works without: it then learns of a dead machine only when Kubernetes deletes its pods.
        self._replace(())
        self._removed.clear()
        self._synced.set()
        return _FORBIDDEN_RETRY_SECONDS

    def _replace(self, things: Iterable[Mapping[str, Any]]) -> None:
        before, now = self._machines, {thing["metadata"]["name"]: _kept(thing) for thing in things}
        self._machines = now
        for name in now:
            self._removed.pop(name, None)
        for name in before.keys() - now.keys():
            self._forget(name)
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                self._changed(name)

    def _put(self, thing: Mapping[str, Any]) -> None:
        name, kept = thing["metadata"]["name"], _kept(thing)
        if self._machines.get(name) != kept:
            self._machines[name] = kept
            self._removed.pop(name, None)
            self._changed(name)

    def _remove(self, thing: Mapping[str, Any]) -> None:
        name = thing["metadata"]["name"]
        if self._machines.pop(name, None) is not None:
            self._forget(name)
            self._changed(name)

    def _forget(self, name: str) -> None:
        self._removed[name] = None
        if len(self._removed) > _REMEMBERED_MACHINES:
            del self._removed[next(iter(self._removed))]


def _event(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return an event's type and object; what is none, such as the beginning of one at a broken end, is an error."""
    try:
        event = json.loads(line)
        return event["type"], event["object"]
    except (ValueError, LookupError, TypeError) as error:
        raise ClusterError(0, "BadEvent", f"{error}: {line[:200]!r}") from error


def _key(pod: Mapping[str, Any]) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["labels"][LABEL_JOB_NAME]


def _trimmed(pod: Mapping[str, Any]) -> Manifest:
    """Keep what decisions look at: with thousands of pods the rest is most of the memory."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    spec = {"nodeName": pod["spec"]["nodeName"]} if pod["spec"].get("nodeName") else {}
    return {"metadata": metadata, "spec": spec, "status": pod.get("status") or {}}


def _kept(machine: Mapping[str, Any]) -> Manifest:
    """Keep taints and the Ready condition without its times: a kubelet's heartbeat is then no change."""
    conditions = (machine.get("status") or {}).get("conditions") or ()
    ready = [
        {"type": "Ready", "status": c.get("status"), "reason": c.get("reason")}
        for c in conditions
        if c.get("type") == "Ready"
    ]
    taints = [
        {"key": taint.get("key"), "effect": taint.get("effect")}
        for taint in (machine.get("spec") or {}).get("taints") or ()
    ]
    return {"spec": {"taints": taints}, "status": {"conditions": ready}}


def _ready(machine: Manifest) -> bool:
    return any(condition["status"] == "True" for condition in machine["status"]["conditions"])
