"""The watch of pods: a LIST, a WATCH from it on, and a new LIST if the API server no longer has the events."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from api_stub import lines, status_of
from stub_cluster import event, followed, listed, pod, until
from torchrun_operator.cluster import transport
from torchrun_operator.cluster.watch import collection

POD_ON_M1 = listed(10, pod("digits-0", 3))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_RETRY_SECONDS", 0.01)


async def test_what_changes_is_shown_and_wakes_its_job() -> None:
    end = asyncio.Event()
    changes = lines(
        event("MODIFIED", pod("digits-0", 11)),
        event("ADDED", pod("other-0", 12, job="other")),
        event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}),
        event("DELETED", pod("digits-1", 21)),
        then=end,
    )
    async with followed(listed(10, pod("digits-0", 3), pod("digits-1", 4)), changes) as it:
        await it.until({"digits-0": "11"})
        await it.until({"other-0": "12"}, job="other")
        assert it.woken == [
            ("team", "digits"),
            ("team", "digits"),
            ("team", "other"),
            ("team", "digits"),
        ]
        assert [asked.query.get("resourceVersion") for asked in it.asked] == [None, "10"]
        assert {asked.query["labelSelector"] for asked in it.asked} == {"torchrun.dev/job-name"}
        end.set()


async def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    end = asyncio.Event()
    async with followed(
        listed(10),
        lines(event("ADDED", pod("digits-0", 11)), event("BOOKMARK", {"metadata": {"resourceVersion": "15"}})),
        lines(event("ADDED", pod("digits-1", 16)), then=end),
    ) as it:
        await it.until({"digits-0": "11", "digits-1": "16"})
        assert [asked.query.get("resourceVersion") for asked in it.asked] == [None, "10", "15"]
        end.set()


@pytest.mark.parametrize(
    "gone",
    [
        lines(event("ERROR", status_of(410, "Expired", "too old resource version"))),
        (410, status_of(410, "Expired", "too old resource version")),
    ],
    ids=["within the stream", "at once"],
)
async def test_events_that_are_no_longer_there(gone: Any) -> None:
    """Pods deleted in the meantime are gone, and their job is woken."""
    end = asyncio.Event()
    async with followed(
        listed(10, pod("digits-0", 3), pod("other-0", 4, job="other")),
        gone,
        listed(90, pod("digits-0", 80)),
        lines(then=end),
    ) as it:
        await it.until({"digits-0": "80"})
        await it.until({}, job="other")
        assert ("team", "other") in it.woken[2:]
        end.set()


async def test_an_api_server_that_fails_for_a_while() -> None:
    end = asyncio.Event()
    async with followed(
        (500, status_of(500, "InternalError")),
        (503, "down"),
        listed(10, pod("digits-0", 3)),
        (500, status_of(500, "InternalError")),
        lines(event("ADDED", pod("digits-1", 11)), then=end),
    ) as it:
        await it.until({"digits-0": "3", "digits-1": "11"})
        end.set()


@pytest.mark.parametrize("size", [1_400_000, 9_000_000], ids=["in etcd", "in JSON, with an escape for each character"])
async def test_a_large_pod_stops_nothing(size: int) -> None:
    """An object may have 1.5 MiB, and any user may label a pod as one of a job."""
    end = asyncio.Event()
    large = pod("digits-0", 11, annotations={"notes": "x" * size})
    async with followed(listed(10), lines(event("ADDED", large), event("ADDED", pod("digits-1", 12)), then=end)) as it:
        await it.until({"digits-0": "11", "digits-1": "12"})
        end.set()


def page(token: str, *pods: dict[str, Any]) -> tuple[int, Any]:
    """Reply with a page of a list. Token: there are more."""
    return 200, {"metadata": {"resourceVersion": "10", "continue": token}, "items": list(pods)}


async def test_a_list_comes_in_pages() -> None:
    end = asyncio.Event()
    first, second = page("next", pod("digits-0", 3)), page("", pod("digits-1", 4))
    async with followed(first, second, lines(then=end)) as it:
        await it.until({"digits-0": "3", "digits-1": "4"})
        lists = [asked.query for asked in it.asked if "watch" not in asked.query]
        assert [(query.get("limit"), query.get("continue")) for query in lists] == [("500", None), ("500", "next")]
        assert it.woken == [("team", "digits")]
        end.set()


async def test_a_list_whose_next_page_has_expired_begins_again() -> None:
    end = asyncio.Event()
    expired = (410, status_of(410, "Expired", "The provided continue parameter is too old"))
    again = page("", pod("digits-1", 4))
    async with followed(page("next", pod("digits-0", 3)), expired, again, lines(then=end)) as it:
        await it.until({"digits-1": "4"})
        end.set()


async def test_a_page_that_is_too_large_is_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_ANSWER_BYTES", 6000)
    end = asyncio.Event()
    pods = [pod(f"digits-{number}", number + 1, annotations={"notes": "x" * 500}) for number in range(9)]
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            await end.wait()
            return web.Response()
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        asked.append(f"{limit} from {begin}")
        more = str(begin + limit) if begin + limit < len(pods) else ""
        return web.json_response(page(more, *pods[begin : begin + limit])[1])

    async with followed(answer) as it:
        await it.until({f"digits-{number}": str(number + 1) for number in range(9)})
        assert asked == ["500 from 0", "62 from 0", "7 from 0", "7 from 7"]
        end.set()


async def test_an_object_that_is_too_large_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_ANSWER_BYTES", 500)
    async with followed(listed(10, pod("digits-0", 3, annotations={"notes": "x" * 600}))) as it:
        (watch,) = (watch for watch in it.cluster.watches if watch.kind == "pods")
        await until(lambda: watch.failing)
        assert {asked.query["limit"] for asked in it.asked} >= {"500", "62", "7", "1"}


async def test_a_stream_that_is_not_json_starts_again() -> None:
    end = asyncio.Event()
    async with followed(
        listed(10),
        (200, "<html>a proxy</html>\n"),
        lines(event("ADDED", pod("digits-0", 11)), then=end),
    ) as it:
        await it.until({"digits-0": "11"})
        end.set()


async def test_only_what_decisions_need_is_kept() -> None:
    end = asyncio.Event()
    async with followed(listed(10, WHOLE), lines(then=end)) as it:
        await it.until({"digits-0": "3"})
        assert list(await it.cluster.list_pods("team", "digits")) == [KEPT]
        end.set()


async def test_a_pod_that_was_just_made_is_shown_at_once() -> None:
    """A watch that lags would still show the former pod of that name."""
    end = asyncio.Event()
    made = pod("digits-0", 12, ownerReferences=[])
    async with followed(POD_ON_M1, lines(then=end)) as it:
        await it.until({"digits-0": "3"})
        it.stub.on("POST /api/v1/namespaces/team/pods", (201, made))
        await it.cluster.create_pod({**made, "kind": "Pod"})
        assert await it.pods() == {"digits-0": "12"}
        end.set()


async def test_a_created_pod_does_not_hide_newer_changes() -> None:
    end = asyncio.Event()
    made = pod("digits-0", 12)
    changes = lines(event("ADDED", made), event("DELETED", pod("digits-0", 13)), then=end)
    async with followed(listed(10, pod("digits-1", 3)), changes) as it:
        await it.until({"digits-1": "3"})
        async with asyncio.timeout(5):
            while len(it.woken) < 3:  # noqa: ASYNC110 - a watch does not notify
                await asyncio.sleep(0.005)
        it.stub.on("POST /api/v1/namespaces/team/pods", (201, made))
        await it.cluster.create_pod({**made, "kind": "Pod"})
        assert await it.pods() == {"digits-1": "3"}
        end.set()


_CONDITION = {"type": "Ready", "status": "False", "reason": "Failed", "message": "m" * 4096}
_OWNER = {"kind": "TorchrunJob", "name": "digits", "uid": "job-uid", "controller": True}
_EXIT = {"exitCode": 1, "reason": "Error", "message": "e" * 4096, "finishedAt": "2026-01-31T12:00:00Z"}
_KEPT_METADATA = {
    "name": "digits-0",
    "namespace": "team",
    "uid": "pod-uid",
    "resourceVersion": "3",
    "creationTimestamp": "2026-01-31T11:00:00Z",
    "deletionTimestamp": "2026-01-31T12:00:00Z",
    "deletionGracePeriodSeconds": 30,
    "finalizers": ["example.com/queue"],
}
_KEPT_STATUS = {"phase": "Failed", "reason": "Evicted", "message": "m" * 4096, "podIP": "10.0.0.1"}
WHOLE: dict[str, Any] = {
    "metadata": {
        **_KEPT_METADATA,
        "labels": {"torchrun.dev/job-name": "digits", "team": "vision"},
        "annotations": {"torchrun.dev/token-digest": "d1", "notes": "x" * 100_000},
        "ownerReferences": [{**_OWNER, "apiVersion": "torchrun.dev/v1alpha1", "blockOwnerDeletion": True}],
        "managedFields": [{"manager": "kubelet"}],
        "generateName": "digits-",
    },
    "spec": {
        "nodeName": "m1",
        "activeDeadlineSeconds": 1,
        "containers": [{"name": "trainer", "env": [{"name": "A", "value": "b"}]}],
    },
    "status": {
        **_KEPT_STATUS,
        "message": "m" * 1_000_000,
        "startTime": None,
        "qosClass": "Burstable",
        "hostIP": "192.168.0.1",
        "conditions": [{**_CONDITION, "message": "m" * 5000, "lastProbeTime": None}] * 300,
        "containerStatuses": [
            {
                "name": "trainer",
                "state": {"terminated": {**_EXIT, "message": "e" * 5000}},
                "restartCount": 0,
                "imageID": "sha256:0",
                "volumeMounts": [{"name": "snapshots"}],
            }
        ],
    },
}
KEPT = {
    "metadata": {
        **_KEPT_METADATA,
        "labels": {"torchrun.dev/job-name": "digits"},
        "annotations": {"torchrun.dev/token-digest": "d1"},
        "ownerReferences": [_OWNER],
    },
    "spec": {"nodeName": "m1", "activeDeadlineSeconds": 1},
    "status": {
        **_KEPT_STATUS,
        "conditions": [_CONDITION] * 256,
        "containerStatuses": [{"name": "trainer", "state": {"terminated": _EXIT}, "restartCount": 0}],
    },
}
