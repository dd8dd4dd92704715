"""A mirror of the jobs' pods, kept by one LIST and a WATCH from it on: reading it costs nothing, and what changes
wakes its job. Nothing is missed: where the API server no longer has the events since the last one seen, all are listed.

kopf could watch pods too, but it copies, diffs and schedules each event for handlers that need none of it: with 450
pods starting that took three quarters of the operator's processor time.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from torchrun_operator.api.names import LABEL_JOB_NAME
from torchrun_operator.cluster.port import ClusterError, Manifest

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_WATCH_SECONDS = 300
_GONE = 410
"""The API server no longer has the events since the resource version asked for."""


class Api(Protocol):
    """The requests that a mirror needs. Both raise ClusterError."""

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a list."""
        ...

    def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Return the events of a watch, a line of JSON each; it ends when the server ends it."""
        ...


class PodMirror:
    """The pods that carry a job's label, in one namespace or in all."""

    def __init__(self, api: Api, path: str, wake: Callable[[tuple[str, str]], None]) -> None:
        """Path is the collection's; wake is told (namespace, job) of each pod that changes."""
        self._api = api
        self._path = path
        self._wake = wake
        self._pods: dict[tuple[str, str], dict[str, Manifest]] = {}
        self._synced = asyncio.Event()

    async def pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the job's pods as they were last seen; waits until they have been listed once."""
        await self._synced.wait()
        return list(self._pods.get((namespace, job), {}).values())

    async def run(self) -> None:
        """Follow the pods for ever."""
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
                logger.warning("the pods cannot be watched, trying again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _list(self) -> str:
        answer = await self._api.list(self._path, {"labelSelector": LABEL_JOB_NAME})
        before, self._pods = self._pods, {}
        for pod in answer["items"]:
            self._put(pod)
        for key in {*before, *self._pods}:
            self._wake(key)
        self._synced.set()
        version: str = answer["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """Follow until the stream ends; return the resource version to go on from."""
        query = {
            "labelSelector": LABEL_JOB_NAME,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        async for line in self._api.watch(self._path, query):
            kind, thing = _event(line)
            if kind == "ERROR":
                raise ClusterError(thing.get("code", 0), thing.get("reason", "Error"), thing.get("message", ""))
            version = thing["metadata"]["resourceVersion"]
            if kind == "DELETED":
                self._wake(self._remove(thing))
            elif kind != "BOOKMARK":
                self._wake(self._put(thing))
        return version

    def _put(self, pod: Mapping[str, Any]) -> tuple[str, str]:
        key = _key(pod)
        self._pods.setdefault(key, {})[pod["metadata"]["name"]] = _trimmed(pod)
        return key

    def _remove(self, pod: Mapping[str, Any]) -> tuple[str, str]:
        key = _key(pod)
        pods = self._pods.get(key, {})
        pods.pop(pod["metadata"]["name"], None)
        if not pods:
            self._pods.pop(key, None)
        return key


def _event(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return an event's type and object; what is none, such as the beginning of one at a broken end, is an error."""
    try:
        event = json.loads(line)
        return event["type"], event["object"]
    except (ValueError, LookupError, TypeError) as error:
        raise ClusterError(0, "BadEvent", f"{error}: {line[:200]!r}") from error


def _key(pod: Mapping[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["labels"][LABEL_JOB_NAME]


def _trimmed(pod: Mapping[str, Any]) -> Manifest:
    """Keep what decisions look at: with thousands of pods the rest is most of the memory."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    spec = {"nodeName": pod["spec"]["nodeName"]} if pod["spec"].get("nodeName") else {}
    return {"metadata": metadata, "spec": spec, "status": pod.get("status") or {}}
