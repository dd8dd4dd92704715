"""The adapter: its requests, and the result of each answer, and of no answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from api_stub import Asked, api_stub, status_of
from stub_cluster import adapter
from support.ports import free_port
from torchrun_operator.cluster import transport
from torchrun_operator.cluster.kubernetes import KubernetesCluster
from torchrun_operator.cluster.port import ClusterError, ConflictError, NameTakenError, RefusedError

PODS, POD = "/api/v1/namespaces/team/pods", "/api/v1/namespaces/team/pods/digits-0"
MAPS, MAP = "/api/v1/namespaces/team/configmaps", "/api/v1/namespaces/team/configmaps/digits-0"
JOB = "/apis/torchrun.dev/v1alpha1/namespaces/team/torchrunjobs/digits"
EXISTS = (409, status_of(409, "AlreadyExists", 'pods "digits-0" already exists'))

Call = Callable[[KubernetesCluster], Awaitable[Any]]


def manifest(kind: str, uid: str = "job-uid", **metadata: Any) -> dict[str, Any]:
    owner = {"kind": "TorchrunJob", "name": "digits", "uid": uid, "controller": True}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "digits-0", "namespace": "team", "ownerReferences": [owner], **metadata},
    }


CREATED = (201, {**manifest("Pod", labels={"torchrun.dev/job-name": "digits"}, resourceVersion="7"), "spec": {}})


def create_pod(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.create_pod(manifest("Pod"))


def apply(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.apply(manifest("ConfigMap"))


def delete_job(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.delete_job("team", "digits", "uid-1", "41")


def delete_pod(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.delete_pod("team", "digits-0", "uid-1", 0)


def stop_pod(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.stop_pod("team", "digits-0", "uid-1")


def apply_status(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.apply_status("team", "digits", "41", {"state": "Running"})


def get_job(cluster: KubernetesCluster) -> Awaitable[Any]:
    return cluster.get_job("team", "digits")


def job_at(version: int) -> dict[str, Any]:
    return {"kind": "TorchrunJob", "metadata": {"namespace": "team", "name": "digits", "resourceVersion": str(version)}}


Answers = dict[str, Any]
OURS, THEIRS = (200, manifest("Pod")), (200, manifest("Pod", uid="another"))
UNOWNED = (200, manifest("Pod", ownerReferences=None))
GOING = (200, manifest("Pod", deletionTimestamp="2026-01-31T12:00:00Z"))
FINE: dict[str, tuple[Call, Answers]] = {
    "create": (create_pod, {f"POST {PODS}": CREATED}),
    "create, it exists": (create_pod, {f"POST {PODS}": EXISTS, f"GET {POD}": OURS}),
    "apply, new": (apply, {f"POST {MAPS}": (201, {})}),
    "apply, it exists": (apply, {f"POST {MAPS}": EXISTS, f"GET {MAP}": OURS, f"PATCH {MAP}": (200, {})}),
    "delete": (delete_pod, {f"DELETE {POD}": (200, {})}),
    "delete, gone": (delete_pod, {f"DELETE {POD}": (404, status_of(404, "NotFound"))}),
    "stop": (stop_pod, {f"PATCH {POD}": (200, {})}),
    "stop, gone": (stop_pod, {f"PATCH {POD}": (404, status_of(404, "NotFound"))}),
    "stop, another pod has the name": (stop_pod, {f"PATCH {POD}": (422, status_of(422, "Invalid"))}),
    "delete, another pod has the name": (delete_pod, {f"DELETE {POD}": (409, status_of(409, "Conflict"))}),
    "delete a job": (delete_job, {f"DELETE {JOB}": (200, {})}),
    "delete a job, gone": (delete_job, {f"DELETE {JOB}": (404, status_of(404, "NotFound"))}),
    "status": (apply_status, {f"PATCH {JOB}/status": (200, job_at(42))}),
    "no job": (get_job, {f"GET {JOB}": (404, status_of(404, "NotFound"))}),
}


@pytest.mark.parametrize(("call", "answers"), FINE.values(), ids=FINE)
async def test_what_is_fine(call: Call, answers: Answers) -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, latencies):
        for request, reply in answers.items():
            stub.on(request, reply)
        assert await call(cluster) is None
        assert stub.requests == list(answers)
        assert [status for _, _, status in latencies] == [reply[0] for reply in answers.values()]
        assert stub.authorization == {"Bearer secret"}


async def vanish(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of the answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"kind": ')
    assert request.transport is not None
    request.transport.abort()
    return response


FORBIDDEN = status_of(403, "Forbidden", "exceeded quota: team")
GONE = (404, status_of(404, "NotFound"))
INVALID = status_of(422, "Invalid", "spec.containers[0].image: Required value")
WRONG: dict[str, tuple[Call, Answers, type[ClusterError], int, str]] = {
    "create, of another owner": (
        create_pod,
        {f"POST {PODS}": EXISTS, f"GET {POD}": THEIRS},
        NameTakenError,
        409,
        "Pod team/digits-0 exists and belongs to another owner",
    ),
    "create, of no owner": (
        create_pod,
        {f"POST {PODS}": EXISTS, f"GET {POD}": UNOWNED},
        NameTakenError,
        409,
        "Pod team/digits-0 exists and belongs to another owner",
    ),
    "create, the former one is terminating": (
        create_pod,
        {f"POST {PODS}": EXISTS, f"GET {POD}": GOING},
        ConflictError,
        409,
        "Pod team/digits-0 is still being deleted",
    ),
    "create, the former one was just deleted": (
        create_pod,
        {f"POST {PODS}": EXISTS, f"GET {POD}": (404, status_of(404, "NotFound"))},
        ConflictError,
        409,
        "Pod team/digits-0 was just deleted",
    ),
    "create, another conflict": (
        create_pod,
        {f"POST {PODS}": (409, status_of(409, "Conflict", "quota changed"))},
        ConflictError,
        409,
        "quota changed",
    ),
    "create, forbidden": (
        create_pod,
        {f"POST {PODS}": (403, FORBIDDEN), f"GET {POD}": GONE},
        RefusedError,
        403,
        "Pod team/digits-0: exceeded quota: team",
    ),
    "create, invalid": (
        create_pod,
        {f"POST {PODS}": (422, INVALID), f"GET {POD}": GONE},
        RefusedError,
        422,
        f"Pod team/digits-0: {INVALID['message']}",
    ),
    "create, forbidden, and another owner has the name": (
        create_pod,
        {f"POST {PODS}": (403, FORBIDDEN), f"GET {POD}": THEIRS},
        RefusedError,
        403,
        "Pod team/digits-0: exceeded quota: team",
    ),
    "create, malformed": (
        create_pod,
        {f"POST {PODS}": (400, status_of(400, "BadRequest", "unknown field")), f"GET {POD}": GONE},
        RefusedError,
        400,
        "Pod team/digits-0: unknown field",
    ),
    "create, too large": (
        create_pod,
        {f"POST {PODS}": (413, status_of(413, "RequestEntityTooLarge", "limit is 3145728")), f"GET {POD}": GONE},
        RefusedError,
        413,
        "Pod team/digits-0: limit is 3145728",
    ),
    "create, its webhook fails": (
        create_pod,
        {f"POST {PODS}": (500, status_of(500, "InternalError", "failed calling webhook")), f"GET {POD}": GONE},
        RefusedError,
        500,
        "Pod team/digits-0: failed calling webhook",
    ),
    "apply, of another owner": (
        apply,
        {f"POST {MAPS}": EXISTS, f"GET {MAP}": THEIRS},
        NameTakenError,
        409,
        "ConfigMap team/digits-0 exists and belongs to another owner",
    ),
    "delete a job that has changed": (
        *(delete_job, {f"DELETE {JOB}": (409, status_of(409, "Conflict", "the precondition failed"))}),
        *(ConflictError, 409, "the precondition failed"),
    ),
    "delete, forbidden": (delete_pod, {f"DELETE {POD}": (403, FORBIDDEN)}, RefusedError, 403, "exceeded quota: team"),
    "status, changed meanwhile": (
        apply_status,
        {f"PATCH {JOB}/status": (409, status_of(409, "Conflict", "the object has been modified"))},
        ConflictError,
        409,
        "the object has been modified",
    ),
    "status, gone": (
        apply_status,
        {f"PATCH {JOB}/status": (404, status_of(404, "NotFound"))},
        ClusterError,
        404,
        "NotFound",
    ),
    "overloaded": (
        get_job,
        {f"GET {JOB}": (429, status_of(429, "TooManyRequests", "slow down"))},
        ClusterError,
        429,
        "slow down",
    ),
    "unauthorized": (get_job, {f"GET {JOB}": (401, status_of(401, "Unauthorized"))}, ClusterError, 401, "Unauthorized"),
    "a long message": (
        get_job,
        {f"GET {JOB}": (422, status_of(422, "Invalid", "m" * 1_000_000))},
        RefusedError,
        422,
        "m" * 4096,
    ),
    "no JSON": (get_job, {f"GET {JOB}": (502, "<h1>Bad gateway</h1>")}, ClusterError, 502, "<h1>Bad gateway</h1>"),
    "no object": (get_job, {f"GET {JOB}": (200, "[1]")}, ClusterError, 200, "[1]"),
    "empty": (get_job, {f"GET {JOB}": (200, "")}, ClusterError, 200, ""),
}


@pytest.mark.parametrize(("call", "answers", "kind", "status", "message"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong(call: Call, answers: Answers, kind: type[ClusterError], status: int, message: str) -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        for request, reply in answers.items():
            stub.on(request, reply)
        with pytest.raises(ClusterError) as caught:
            await call(cluster)
        assert (type(caught.value), caught.value.status, caught.value.message) == (
            kind,
            status,
            message,
        )
        assert stub.requests == list(answers)


async def test_nothing_listens() -> None:
    port = free_port()
    async with adapter(f"http://127.0.0.1:{port}") as (cluster, latencies):
        with pytest.raises(ClusterError) as caught:
            await get_job(cluster)
        assert (caught.value.status, latencies) == (0, [("GET", "torchrunjobs", 0)])
        assert "ClientConnectorError" in caught.value.reason


async def test_the_answer_breaks_off() -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        stub.on(f"GET {JOB}", vanish)
        with pytest.raises(ClusterError):
            await get_job(cluster)


async def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_TIMEOUT_SECONDS", 0.05)
    never = asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async with api_stub() as stub, adapter(stub.url) as (cluster, latencies):
        stub.on(f"POST {PODS}", silent)
        with pytest.raises(ClusterError) as caught:
            await create_pod(cluster)
        assert (caught.value.status, latencies) == (0, [("POST", "pods", 0)])
        never.set()


SENT: dict[str, tuple[Call, Answers, Asked]] = {
    "create": (
        create_pod,
        {f"POST {PODS}": CREATED},
        Asked("POST", PODS, {"fieldManager": "torchrun-operator"}, "application/json", manifest("Pod")),
    ),
    "apply": (
        apply,
        {f"POST {MAPS}": EXISTS, f"GET {MAP}": OURS, f"PATCH {MAP}": (200, {})},
        Asked(
            "PATCH",
            MAP,
            {"fieldManager": "torchrun-operator", "force": "true"},
            "application/apply-patch+yaml",
            manifest("ConfigMap"),
        ),
    ),
    "delete at once": (
        delete_pod,
        {f"DELETE {POD}": (200, {})},
        Asked(
            "DELETE",
            POD,
            {},
            "application/json",
            {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "preconditions": {"uid": "uid-1"},
                "gracePeriodSeconds": 0,
            },
        ),
    ),
    "stop": (
        stop_pod,
        {f"PATCH {POD}": (200, {})},
        Asked(
            "PATCH",
            POD,
            {},
            "application/merge-patch+json",
            {"metadata": {"uid": "uid-1"}, "spec": {"activeDeadlineSeconds": 1}},
        ),
    ),
    "delete": (
        lambda cluster: cluster.delete_pod("team", "digits-0", "uid-1", None),
        {f"DELETE {POD}": (200, {})},
        Asked(
            "DELETE",
            POD,
            {},
            "application/json",
            {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "uid-1"}},
        ),
    ),
    "delete a job": (
        delete_job,
        {f"DELETE {JOB}": (200, {})},
        Asked(
            "DELETE",
            JOB,
            {},
            "application/json",
            {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "uid-1", "resourceVersion": "41"}},
        ),
    ),
    "status": (
        apply_status,
        {f"PATCH {JOB}/status": (200, job_at(42))},
        Asked(
            "PATCH",
            f"{JOB}/status",
            {"fieldManager": "torchrun-operator", "force": "true"},
            "application/apply-patch+yaml",
            {
                "apiVersion": "torchrun.dev/v1alpha1",
                "kind": "TorchrunJob",
                "metadata": {"name": "digits", "namespace": "team", "resourceVersion": "41"},
                "status": {"state": "Running"},
            },
        ),
    ),
}


@pytest.mark.parametrize(("call", "answers", "expected"), SENT.values(), ids=SENT)
async def test_what_is_sent(call: Call, answers: Answers, expected: Asked) -> None:
    async with api_stub() as stub, adapter(stub.url) as (cluster, _):
        for request, reply in answers.items():
            stub.on(request, reply)
        await call(cluster)
        assert stub.asked[-1] == expected
