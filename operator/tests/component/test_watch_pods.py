"""The watch of pods: a LIST, a WATCH from it on, and a new LIST if the API server no longer has the events."""

import asyncio
from typing import Any

import pytest

from api_stub import lines, status_of
from stub_cluster import event, followed, listed, pod
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


async def test_reads_wait_for_the_first_list() -> None:
    async with followed((500, status_of(500, "InternalError"))) as it:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await it.pods()


async def test_a_large_pod_stops_nothing() -> None:
    """An object may have 1.5 MiB, and any user may label a pod as one of a job."""
    end = asyncio.Event()
    large = pod("digits-0", 11, annotations={"notes": "x" * 1_400_000})
    async with followed(listed(10), lines(event("ADDED", large), event("ADDED", pod("digits-1", 12)), then=end)) as it:
        await it.until({"digits-0": "11", "digits-1": "12"})
        end.set()


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
    async with followed(listed(10, pod("digits-0", 3, managedFields=[{"manager": "kubelet"}])), lines(then=end)) as it:
        await it.until({"digits-0": "3"})
        (found,) = await it.cluster.list_pods("team", "digits")
        assert "managedFields" not in found["metadata"]
        assert found["spec"] == {"nodeName": "m1"}
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
