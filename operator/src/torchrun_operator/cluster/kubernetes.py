"""The adapter of the port to an API server. Jobs, pods and Kubernetes nodes are read from the watches."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import quote

from kubernetes.aio import client

from torchrun_operator.api.names import FIELD_MANAGER, GROUP, PLURAL, STOPPED_AFTER_SECONDS, VERSION
from torchrun_operator.cluster.port import (
    ClusterError,
    ConflictError,
    Key,
    Manifest,
    NameTakenError,
    RefusedError,
)
from torchrun_operator.cluster.transport import (
    APPLY,
    JSON,
    MERGE,
    LatencyObserver,
    Transport,
    answer_of,
    configuration_of_environment,
)
from torchrun_operator.cluster.watch.base import Watch
from torchrun_operator.cluster.watch.cache import JobCache
from torchrun_operator.cluster.watch.collection import pages
from torchrun_operator.cluster.watch.jobs import JobWatch, Login, login
from torchrun_operator.cluster.watch.machines import MachineWatch
from torchrun_operator.cluster.watch.pods import PodWatch
from torchrun_operator.core.facts.machines import Machines
from torchrun_operator.render.namespace import NamespaceRules

_LOG_SECONDS = 3.0
"""The kubelet of the pod sends the log, and may not answer while a pass waits for it."""
_LOG_BYTES = 1 << 20
_LOG_LINES = (5000, 500, 60)
"""How many lines at the end to ask for, until they fit. A kubelet sends the lines from the first one on, and no more
bytes than asked for; container runtimes split a line after 16 KiB, so that 60 lines always fit.
"""
_EVENTS_SECONDS = 3.0
"""The API server searches all events of the namespace, and a pass waits for it."""
_MOST_EVENTS = 50
_GONE = (404, 409, 422)
"""Answers about a pod that is gone. The last two: another pod has the name, says a DELETE or a PATCH with a uid."""
_PATHS = {
    "Service": "api/v1/namespaces/{namespace}/services",
    "ConfigMap": "api/v1/namespaces/{namespace}/configmaps",
    "PersistentVolumeClaim": "api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "LimitRange": "api/v1/namespaces/{namespace}/limitranges",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Pod": "api/v1/namespaces/{namespace}/pods",
    "Event": "api/v1/namespaces/{namespace}/events",
}


async def connect(
    observe: LatencyObserver, wake: Callable[[Key], None], namespaces: Sequence[str] = ()
) -> "KubernetesCluster":
    """Connect with the service account of the operator's pod, or with the kubeconfig of the environment."""
    return KubernetesCluster(await configuration_of_environment(), observe, wake, namespaces)


class KubernetesCluster:
    """Implements cluster.port.Cluster. Without namespaces, its watches cover all of them."""

    def __init__(
        self,
        configuration: client.Configuration,
        observe: LatencyObserver,
        wake: Callable[[Key], None],
        namespaces: Sequence[str] = (),
        login: Login = login,
    ) -> None:
        """Calls `observe` after each request. While a watch runs, calls `wake` for each job that a change affects."""
        self._transport = Transport(configuration, observe)
        self._namespaces = tuple(namespaces) or ("",)
        self.cache = JobCache()
        self._pods = {name: PodWatch(name, self._transport, wake) for name in self._namespaces}
        self._machines = MachineWatch(self._transport, self._machine_changed)
        jobs = [JobWatch(name, self.cache, wake, login) for name in self._namespaces]
        self.watches: Sequence[Watch] = (*jobs, *self._pods.values(), self._machines)
        """Reads are up to date while all of them run."""

    def _machine_changed(self, name: str) -> None:
        for watch in self._pods.values():
            watch.wake_jobs_on(name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """See Cluster.get_job."""
        known = self.cache.get((namespace, name))
        if known is None:
            known = await self._transport.read("torchrunjobs", f"{_jobs(namespace)}/{quote(name)}")
            self.cache.update((namespace, name), known)
        return known

    @property
    def namespaces(self) -> Sequence[str]:
        """See Cluster.namespaces."""
        return self._namespaces

    async def list_jobs(self, namespace: str) -> Sequence[Key]:
        """See Cluster.list_jobs. The next pass over each job reads it again, in case the watch has missed a change."""
        path = _jobs(namespace) if namespace else f"apis/{GROUP}/{VERSION}/{PLURAL}"
        found = [
            (item["metadata"]["namespace"], item["metadata"]["name"])
            async for page in pages(self._transport, path, {})
            for item in page["items"]
        ]
        self.cache.clear(namespace)
        return found

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """See Cluster.list_pods. Reads from the watch, which may lag but keeps the order of changes."""
        return self._pods_of(namespace).pods(namespace, job)

    def _pods_of(self, namespace: str) -> PodWatch:
        return self._pods.get("") or self._pods[namespace]

    async def list_machines(self, names: Collection[str]) -> Machines:
        """See Cluster.list_machines. Reads from the watch, as list_pods does."""
        return await self._machines.machines(names)

    async def read_log(self, namespace: str, pod: str, container: str, seconds: int | None = None) -> str:
        """See Cluster.read_log."""
        path = f"{_PATHS['Pod'].format(namespace=quote(namespace))}/{quote(pod)}/log"
        query = {"container": container, "limitBytes": str(_LOG_BYTES), "timestamps": "true"}
        if seconds is not None:
            query["sinceSeconds"] = str(max(1, seconds))
        data = b""
        for lines in _LOG_LINES:
            asked = {**query, "tailLines": str(lines)}
            status, data = await self._transport.exchange(
                "GET", "pods/log", path, query=asked, seconds=_LOG_SECONDS, most_bytes=2 * _LOG_BYTES
            )
            if status != 200:
                answer_of(status, data)
            if len(data) < _LOG_BYTES:  # otherwise it was cut before its end
                break
        return data.decode(errors="replace")

    async def namespace_rules(self, namespace: str) -> NamespaceRules:
        """See Cluster.namespace_rules."""
        ranges, policies = await asyncio.gather(
            self._list("LimitRange", namespace), self._list("NetworkPolicy", namespace)
        )
        return NamespaceRules(ranges, policies)

    async def _list(self, kind: str, namespace: str) -> tuple[Manifest, ...]:
        try:
            found = await self._transport.list(_PATHS[kind].format(namespace=quote(namespace)), {})
        except RefusedError:
            return ()  # an older chart does not grant the right to read them
        return tuple(found["items"])

    async def list_events(self, namespace: str, uid: str) -> Sequence[Manifest]:
        """See Cluster.list_events."""
        path = _PATHS["Event"].format(namespace=quote(namespace))
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(_MOST_EVENTS)}
        answer = await self._transport.exchange("GET", "events", path, query=query, seconds=_EVENTS_SECONDS)
        items: Sequence[Manifest] = answer_of(*answer)["items"]
        return items

    async def create_pod(self, manifest: Manifest) -> None:
        """See Cluster.create_pod."""
        created = await self._create_or(manifest, self._leave_as_it_is)
        if created is not None:
            self._pods_of(manifest["metadata"]["namespace"]).created(created)

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """See Cluster.delete_pod."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        path = f"{_PATHS['Pod'].format(namespace=quote(namespace))}/{quote(name)}"
        await self._unless_gone("DELETE", path, body)

    async def delete_job(self, namespace: str, name: str, uid: str, version: str) -> None:
        """See Cluster.delete_job."""
        same = {"uid": uid, "resourceVersion": version}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": same}
        try:
            await self._transport.request("DELETE", "torchrunjobs", f"{_jobs(namespace)}/{quote(name)}", body=body)
        except ClusterError as error:
            if error.status != 404:
                raise
        finally:
            self.cache.forget((namespace, name))  # the next pass reads the job

    async def stop_pod(self, namespace: str, name: str, uid: str) -> None:
        """See Cluster.stop_pod. A deadline in the past is the one way to end a pod and keep its logs."""
        path = f"{_PATHS['Pod'].format(namespace=quote(namespace))}/{quote(name)}"
        body = {"metadata": {"uid": uid}, "spec": {"activeDeadlineSeconds": STOPPED_AFTER_SECONDS}}
        await self._unless_gone("PATCH", path, body, content_type=MERGE)

    async def _unless_gone(self, verb: str, path: str, body: Manifest, content_type: str = JSON) -> None:
        try:
            await self._transport.request(verb, "pods", path, body=body, content_type=content_type)
        except ClusterError as error:
            if error.status not in _GONE:
                raise

    async def create(self, manifest: Manifest) -> None:
        """See Cluster.create."""
        try:
            await self._create_or(manifest, self._leave_as_it_is)
        except ConflictError as error:
            # Someone deletes it while pods use it. It stays until these end, which a person must know.
            raise RefusedError(error.status, error.reason, error.message) from error

    async def delete_owned(self, manifest: Manifest) -> None:
        """See Cluster.delete_owned."""
        found = await self._find(manifest)
        if found is None or _owner(found) != _owner(manifest):
            return
        collection, resource = _collection(manifest)
        path = f"{collection}/{quote(manifest['metadata']['name'])}"
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": found["metadata"]["uid"]}}
        try:
            await self._transport.request("DELETE", resource, path, body=body)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def apply(self, manifest: Manifest) -> None:
        """See Cluster.apply."""
        await self._create_or(manifest, self._patch)

    async def apply_status(self, namespace: str, name: str, resource_version: str, status: Manifest) -> None:
        """See Cluster.apply_status."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "TorchrunJob",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": resource_version},
            "status": status,
        }
        path = f"{_jobs(namespace)}/{quote(name)}/status"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        try:
            written = await self._transport.request(
                "PATCH", "torchrunjobs/status", path, query=query, body=body, content_type=APPLY
            )
        except ClusterError:
            self.cache.forget((namespace, name))  # changed, gone, or written without an answer: read it again
            raise
        self.cache.put((namespace, name), written)

    async def create_event(self, manifest: Manifest) -> None:
        """See Cluster.create_event."""
        namespace = manifest["metadata"]["namespace"]
        await self._transport.request(
            "POST", "events", _PATHS["Event"].format(namespace=quote(namespace)), body=manifest
        )

    async def _create_or(self, manifest: Manifest, when_there: Callable[[Manifest], Any]) -> Manifest | None:
        """Create the object and return it. If it exists, call `when_there` and return None.

        A create comes first: it takes one request per object at the start of a job, when most objects are created. A
        server-side apply without it would take over an object of another owner with the same name. A quota that the
        existing object has used up refuses the create before the API server looks for the name.
        """
        collection, resource = _collection(manifest)
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return await self._transport.request("POST", resource, collection, query=query, body=manifest)
        except ConflictError as error:
            if error.reason != "AlreadyExists":
                raise
        except ClusterError as error:
            if _refusal(error, manifest) is None:
                raise
            there = await self._find(manifest)
            if there is None or _owner(there) != _owner(manifest):
                raise _refusal(error, manifest) or error from error
        found = await self._find(manifest)
        if found is None:
            raise ConflictError(409, "Conflict", f"{_title(manifest)} was just deleted")
        if _owner(found) != _owner(manifest):
            raise NameTakenError(409, "NameTaken", f"{_title(manifest)} exists and belongs to another owner")
        if found["metadata"].get("deletionTimestamp"):
            raise ConflictError(409, "Conflict", f"{_title(manifest)} is still being deleted")
        await when_there(manifest)
        return None

    async def _find(self, manifest: Manifest) -> Manifest | None:
        collection, resource = _collection(manifest)
        return await self._transport.read(resource, f"{collection}/{quote(manifest['metadata']['name'])}")

    async def _leave_as_it_is(self, manifest: Manifest) -> None:
        """Do nothing: the spec of a pod cannot change, and a claim belongs to its user."""

    async def _patch(self, manifest: Manifest) -> None:
        collection, resource = _collection(manifest)
        path = f"{collection}/{quote(manifest['metadata']['name'])}"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._transport.request("PATCH", resource, path, query=query, body=manifest, content_type=APPLY)


def _jobs(namespace: str) -> str:
    return f"apis/{GROUP}/{VERSION}/namespaces/{quote(namespace)}/{PLURAL}"


def _collection(manifest: Manifest) -> tuple[str, str]:
    collection = _PATHS[manifest["kind"]].format(namespace=quote(manifest["metadata"]["namespace"]))
    return collection, collection.rsplit("/", 1)[1]


def _owner(manifest: Manifest) -> str | None:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _refusal(error: ClusterError, manifest: Manifest) -> RefusedError | None:
    """Return the error as a refusal that names the object. None: it may pass.

    A webhook that does not answer is a refusal too: a person must repair it, and should read about it in the status.
    """
    if not isinstance(error, RefusedError) and "failed calling webhook" not in error.message:
        return None
    named = manifest["metadata"]["name"] in error.message
    return RefusedError(error.status, error.reason, error.message if named else f"{_title(manifest)}: {error.message}")


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
