"""The adapter from the port to a real API server, over the asyncio client of the `kubernetes` package."""

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from torchrun_operator.api.names import FIELD_MANAGER, GROUP, PLURAL, VERSION
from torchrun_operator.cluster.port import ClusterError, ConflictError, Key, Manifest, NameTakenError, RefusedError
from torchrun_operator.cluster.watch.cache import JobCache
from torchrun_operator.cluster.watch.mirror import MachineMirror, PodMirror

_APPLY = "application/apply-patch+yaml; charset=utf-8"
"""With its parameter: without, the client writes the body itself, as JSON that not every YAML reader takes."""
_NOT_PLAIN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What YAML takes in no text, or for the end of a line, unless it is escaped."""
_HALVES = re.compile("[\ud800-\udfff]")
_JSON = "application/json"
_TIMEOUT_SECONDS = 30.0
_SILENCE_SECONDS = 75.0
"""A watch brings a bookmark every minute at the latest; one that is silent for longer is dead."""
_LOG_SECONDS = 3.0
"""A log comes from the pod's machine, which may not answer, and a pass waits for it."""
_CONNECTIONS = 24
"""Each is a TLS handshake for both sides, at every burst anew; more of them make nothing faster."""
_PATHS = {
    "Service": "api/v1/namespaces/{namespace}/services",
    "ConfigMap": "api/v1/namespaces/{namespace}/configmaps",
    "PersistentVolumeClaim": "api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Pod": "api/v1/namespaces/{namespace}/pods",
    "Event": "api/v1/namespaces/{namespace}/events",
}
_KINDS = {400: RefusedError, 403: RefusedError, 409: ConflictError, 413: RefusedError, 422: RefusedError}

LatencyObserver = Callable[[str, str, int, float], None]
"""Told of each request: verb, resource, status (0: no answer), seconds."""


async def connect(
    observe: LatencyObserver, wake: Callable[[Key], None], namespaces: Sequence[str] = ()
) -> "KubernetesCluster":
    """Connect with the service account of the pod this runs in, or else with the kubeconfig of the environment.

    `wake` is told (namespace, job) of each pod that changes while follow_pods() runs.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = _CONNECTIONS
    # No proxy belongs between a pod and its API server; and with trust_env each request would read ~/.netrc.
    configuration.client_session_kwargs = {"trust_env": False}
    return KubernetesCluster(client.ApiClient(configuration), observe, wake, namespaces)


class KubernetesCluster:
    """Implements cluster.port.Cluster; watches all namespaces where none are named."""

    def __init__(
        self,
        api: Any,  # noqa: ANN401 - the client is untyped
        observe: LatencyObserver,
        wake: Callable[[Key], None],
        namespaces: Sequence[str] = (),
    ) -> None:
        self._api = api
        self._observe = observe
        self._namespaces = tuple(namespaces)
        self._jobs = JobCache()
        pods = {name: _PATHS["Pod"].format(namespace=quote(name)) for name in namespaces} or {"": "api/v1/pods"}
        self._mirrors = {name: PodMirror(self, path, wake) for name, path in pods.items()}
        self._machines = MachineMirror(self, self._machine_changed)

    async def follow_pods(self) -> None:
        """Keep what list_pods() and list_machines() tell up to date; runs for ever."""
        async with asyncio.TaskGroup() as group:
            for mirror in (*self._mirrors.values(), self._machines):
                group.create_task(mirror.run())

    def _machine_changed(self, name: str) -> None:
        for mirror in self._mirrors.values():
            mirror.wake_jobs_on(name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get_job(self, namespace: str, name: str) -> Manifest | None:
        """See Cluster.get_job."""
        known = self._jobs.get((namespace, name))
        if known is None:
            known = await self._read("torchrunjobs", f"{_jobs(namespace)}/{quote(name)}")
            self.saw_job((namespace, name), known)
        return known

    def saw_job(self, key: Key, job: Manifest | None) -> None:
        """Take note of what a watch told of a job; None: it has been deleted."""
        if job is None:
            self._jobs.forget(key)
        else:
            self._jobs.put(key, job)

    async def list_jobs(self) -> Sequence[Key]:
        """See Cluster.list_jobs. Each job is read anew afterwards: what the watch may have missed is made good."""
        paths = [_jobs(namespace) for namespace in self._namespaces] or [f"apis/{GROUP}/{VERSION}/{PLURAL}"]
        answers = await asyncio.gather(*[self._request("GET", "torchrunjobs", path) for path in paths])
        self._jobs.clear()
        return [
            (item["metadata"]["namespace"], item["metadata"]["name"]) for answer in answers for item in answer["items"]
        ]

    async def list_pods(self, namespace: str, job: str) -> Sequence[Manifest]:
        """See Cluster.list_pods. From the mirror: it may be a moment behind, never out of order."""
        return await self._mirror(namespace).pods(namespace, job)

    def _mirror(self, namespace: str) -> PodMirror:
        return self._mirrors.get("") or self._mirrors[namespace]

    async def list_machines(self, names: Collection[str]) -> Mapping[str, Manifest | None]:
        """See Cluster.list_machines. From the mirror, as list_pods."""
        return await self._machines.machines(names)

    async def read_log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """See Cluster.read_log."""
        path = f"{_PATHS['Pod'].format(namespace=quote(namespace))}/{quote(pod)}/log"
        query = {"container": container, "tailLines": str(lines), "timestamps": "true"}
        status, data = await self._exchange("GET", "pods/log", path, query=query, seconds=_LOG_SECONDS)
        if status != 200:
            _answer(status, data)
        return data.decode(errors="replace")

    async def create_pod(self, manifest: Manifest) -> None:
        """See Cluster.create_pod."""
        created = await self._create_or(manifest, self._leave_as_it_is)
        if created is not None:
            self._mirror(manifest["metadata"]["namespace"]).created(created)

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None) -> None:
        """See Cluster.delete_pod."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        path = f"{_PATHS['Pod'].format(namespace=quote(namespace))}/{quote(name)}"
        try:
            await self._request("DELETE", "pods", path, body=body)
        except ConflictError:
            return  # another pod has taken the name: that one is gone
        except ClusterError as error:
            if error.status != 404:
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
            written = await self._request(
                "PATCH", "torchrunjobs/status", path, query=query, body=body, content_type=_APPLY
            )
        except ClusterError:
            self._jobs.forget((namespace, name))  # changed, gone, or written without our knowing: read it again
            raise
        self._jobs.put((namespace, name), written)

    async def create_event(self, manifest: Manifest) -> None:
        """See Cluster.create_event."""
        namespace = manifest["metadata"]["namespace"]
        await self._request("POST", "events", _PATHS["Event"].format(namespace=quote(namespace)), body=manifest)

    async def _create_or(self, manifest: Manifest, when_there: Callable[[Manifest], Any]) -> Manifest | None:
        """POST first: at a job's start, when there is most to do, that is one request an object. Return what was made.

        A blind server-side apply would take over an object of somebody else that happens to have the name.
        """
        collection, resource = _collection(manifest)
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return await self._request("POST", resource, collection, query=query, body=manifest)
        except ConflictError as error:
            if error.reason != "AlreadyExists":
                raise
        found = await self._read(resource, f"{collection}/{quote(manifest['metadata']['name'])}")
        if found is None:
            raise ConflictError(409, "Conflict", f"{_title(manifest)} has just been deleted")
        if _owner(found) != _owner(manifest):
            raise NameTakenError(409, "NameTaken", f"{_title(manifest)} exists and is not this job's")
        if found["metadata"].get("deletionTimestamp"):
            raise ConflictError(409, "Conflict", f"{_title(manifest)} is still being deleted")
        await when_there(manifest)
        return None

    async def _leave_as_it_is(self, manifest: Manifest) -> None:
        """Nothing to do: a pod's spec cannot change."""

    async def _patch(self, manifest: Manifest) -> None:
        collection, resource = _collection(manifest)
        path = f"{collection}/{quote(manifest['metadata']['name'])}"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._request("PATCH", resource, path, query=query, body=manifest, content_type=_APPLY)

    async def _read(self, resource: str, path: str) -> Manifest | None:
        try:
            return await self._request("GET", resource, path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """See mirror.Api.list."""
        return await self._request("GET", path.rsplit("/", 1)[1], path, query=query)

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """See mirror.Api.watch."""
        headers = {"Accept": _JSON}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        url = f"{self._api.configuration.host}/{path}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(sock_connect=_TIMEOUT_SECONDS, sock_read=_SILENCE_SECONDS)
        try:
            response = await self._api.call_api("GET", url, headers, _request_timeout=timeout)
            async with response.response as stream:
                if stream.status > 299:
                    _answer(stream.status, await stream.read())
                async for line in stream.content:
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterError(0, type(error).__name__, f"WATCH {path}: {error}") from error

    async def _request(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        return _answer(*await self._exchange(verb, resource, path, query=query, body=body, content_type=content_type))

    async def _exchange(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = _JSON,
        seconds: float = _TIMEOUT_SECONDS,
    ) -> tuple[int, bytes]:
        headers = {"Accept": _JSON, "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, verb, body)
        url = f"{self._api.configuration.host}/{path}" + (f"?{urlencode(query)}" if query else "")
        status, started = 0, time.monotonic()
        try:
            sent = _yaml_text(body) if content_type == _APPLY else body
            response = await self._api.call_api(verb, url, headers, sent, _request_timeout=seconds)
            status, data = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
            raise ClusterError(0, type(error).__name__, f"{verb} {path}: {error}") from error
        finally:
            self._observe(verb, resource, status, time.monotonic() - started)
        return status, data


def _yaml_text(body: object) -> str:
    """Write a JSON value so that a YAML reader takes it, too; halves of surrogate pairs become replacement characters.

    To YAML the JSON escape of a character beyond 16 bits is an error: an emoji in a script's last words.
    """
    text = _HALVES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(body, ensure_ascii=False))
    return _NOT_PLAIN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _answer(status: int, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        # Of something in between, such as a proxy: whatever it says, it is not the object asked for.
        raise ClusterError(status, "NoObject", data[:500].decode(errors="replace"))
    if status < 300:
        return answer
    reason, message = str(answer.get("reason") or "Error"), str(answer.get("message") or "no message")
    raise _KINDS.get(status, ClusterError)(status, reason, message)


def _jobs(namespace: str) -> str:
    return f"apis/{GROUP}/{VERSION}/namespaces/{quote(namespace)}/{PLURAL}"


def _collection(manifest: Manifest) -> tuple[str, str]:
    collection = _PATHS[manifest["kind"]].format(namespace=quote(manifest["metadata"]["namespace"]))
    return collection, collection.rsplit("/", 1)[1]


def _owner(manifest: Manifest) -> str | None:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
