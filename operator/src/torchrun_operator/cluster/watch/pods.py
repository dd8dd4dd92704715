"""The watch of the jobs' pods in one namespace or in all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from torchrun_operator.api.names import LABEL_JOB_NAME
from torchrun_operator.cluster.port import Key, Manifest
from torchrun_operator.cluster.watch.collection import Api, CollectionWatch


class PodWatch(CollectionWatch):
    """Keeps the pods with the label of a job."""

    def __init__(self, namespace: str, api: Api, wake: Callable[[Key], None]) -> None:
        """Calls `wake` for the job of each pod that changes."""
        path = f"api/v1/namespaces/{quote(namespace)}/pods" if namespace else "api/v1/pods"
        super().__init__("pods", namespace, api, path, {"labelSelector": LABEL_JOB_NAME})
        self._wake = wake
        self._pods: dict[Key, dict[str, Manifest]] = {}

    async def pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the newest known pods of the job. Waits for the first list. Raises ClusterError, see wait_synced()."""
        await self.wait_synced()
        return list(self._pods.get((namespace, job), {}).values())

    def created(self, pod: Manifest) -> None:
        """Show a created pod before the watch reports it, unless the watch has seen newer changes.

        Otherwise a watch that lags would show the previous pod of that name.
        """
        if int(pod["metadata"]["resourceVersion"]) > self._version:
            self._keep(pod)

    def wake_jobs_on(self, machine: str) -> None:
        """Wake the jobs that have pods on that Kubernetes node."""
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


def _key(pod: Mapping[str, Any]) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["labels"][LABEL_JOB_NAME]


def _trimmed(pod: Mapping[str, Any]) -> Manifest:
    """Keep what decisions need. With thousands of pods, the rest would take most of the memory."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    spec = {"nodeName": pod["spec"]["nodeName"]} if pod["spec"].get("nodeName") else {}
    return {"metadata": metadata, "spec": spec, "status": pod.get("status") or {}}
