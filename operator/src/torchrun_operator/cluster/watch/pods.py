"""The watch of the jobs' pods in one namespace or in all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from torchrun_operator.api.names import LABEL_JOB_NAME
from torchrun_operator.cluster.port import Key, Manifest, NotSyncedError
from torchrun_operator.cluster.watch.collection import Api, CollectionWatch
from torchrun_operator.cluster.watch.trimming import trimmed


class PodWatch(CollectionWatch):
    """Keeps the pods with the label of a job."""

    def __init__(self, namespace: str, api: Api, wake: Callable[[Key], None]) -> None:
        """Calls `wake` for the job of each pod that changes."""
        path = f"api/v1/namespaces/{quote(namespace)}/pods" if namespace else "api/v1/pods"
        super().__init__("pods", namespace, api, path, {"labelSelector": LABEL_JOB_NAME})
        self._wake = wake
        self._pods: dict[Key, dict[str, Manifest]] = {}
        self._asked: set[Key] = set()
        """Jobs whose pods were asked for before the first list."""

    def pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """Return the newest known pods of the job.

        Raises ClusterError, see require_synced(). Before the first list it wakes the job later: a pass that waited for
        a list that does not come would take a turn from the jobs of other namespaces.
        """
        try:
            self.require_synced()
        except NotSyncedError:
            self._asked.add((namespace, job))
            raise
        return list(self._pods.get((namespace, job), {}).values())

    def _settle(self) -> None:
        super()._settle()
        asked, self._asked = self._asked, set()
        for key in asked - self._pods.keys():  # the list has woken those
            self._wake(key)

    def created(self, pod: Manifest) -> None:
        """Show a created pod before the watch reports it, unless the watch has seen newer changes.

        Otherwise a watch that lags would show the previous pod of that name.
        """
        if int(pod["metadata"]["resourceVersion"]) > self._version:
            self._keep(trimmed(pod))

    def wake_jobs_on(self, machine: str) -> None:
        """Wake the jobs that have pods on that Kubernetes node."""
        for key, pods in list(self._pods.items()):
            if any(pod["spec"].get("nodeName") == machine for pod in pods.values()):
                self._wake(key)

    def _kept(self, thing: Mapping[str, Any]) -> Manifest:
        return trimmed(thing)

    def _replace(self, kept: Sequence[Manifest]) -> None:
        before, self._pods = self._pods, {}
        for pod in kept:
            self._keep(pod)
        for key in {*before, *self._pods}:
            self._wake(key)

    def _put(self, kept: Manifest) -> None:
        self._keep(kept)
        self._wake(_key(kept))

    def _remove(self, thing: Mapping[str, Any]) -> None:
        key = _key(thing)
        pods = self._pods.get(key, {})
        pods.pop(thing["metadata"]["name"], None)
        if not pods:
            self._pods.pop(key, None)
        self._wake(key)

    def _keep(self, pod: Manifest) -> None:
        self._pods.setdefault(_key(pod), {})[pod["metadata"]["name"]] = pod


def _key(pod: Mapping[str, Any]) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["labels"][LABEL_JOB_NAME]
