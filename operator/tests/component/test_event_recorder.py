"""Events are recorded in the background, in order, and an event that cannot be recorded takes no other with it."""

import asyncio
import io
import json
import logging
from datetime import timedelta

import pytest

from builders import NOW, job_manifest
from memory_cluster import MemoryCluster
from torchrun_operator.cluster.port import ClusterError
from torchrun_operator.core.events import Event
from torchrun_operator.reconcile.tell import EventRecorder
from torchrun_operator.telemetry.logs import JsonFormatter, job_context

EVENTS = [Event(reason, f"{reason} happened") for reason in ("First", "Second", "Third")]


def recorder_of(cluster: MemoryCluster) -> EventRecorder:
    return EventRecorder(cluster, lambda: NOW)


def recorded(cluster: MemoryCluster) -> list[str]:
    return [event["reason"] for event in cluster.events]


@pytest.mark.parametrize("error", [ClusterError(500, "InternalError", "etcd is slow"), ValueError("no such header")])
async def test_an_event_that_cannot_be_recorded_takes_no_other_with_it(error: Exception) -> None:
    cluster = MemoryCluster()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what == "event Second":
            raise error

    cluster.fault = fault
    recorder = recorder_of(cluster)
    recorder.tell(job_manifest(), EVENTS)
    await recorder.idle()
    assert recorded(cluster) == ["First", "Third"]


async def test_log_lines_carry_the_job_that_the_event_is_about() -> None:
    cluster = MemoryCluster()

    async def fault(_number: int, _what: str, _done: bool) -> None:
        raise ClusterError(500, "InternalError", "etcd is slow")

    cluster.fault = fault
    recorder, lines = recorder_of(cluster), io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("torchrun_operator.reconcile.tell")
    logger.addHandler(handler)
    try:
        for name in ("one", "other"):
            with job_context("team", name):
                recorder.tell(job_manifest(name), EVENTS[:1])
        await recorder.idle()
    finally:
        logger.removeHandler(handler)
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["job"]["name"] for line in found if "cannot record" in line["message"]] == ["one", "other"]


async def test_a_recorder_that_is_closed_has_ended() -> None:
    cluster, ended = MemoryCluster(), False

    async def fault(_number: int, _what: str, _done: bool) -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    cluster.fault = fault
    recorder = recorder_of(cluster)
    recorder.tell(job_manifest(), EVENTS)
    await recorder.aclose(0.01)
    assert (ended, recorded(cluster)) == (True, [])


async def test_a_namespace_that_hangs_delays_no_other() -> None:
    cluster, hold = MemoryCluster(), asyncio.Event()

    async def fault(_number: int, what: str, _done: bool) -> None:
        if what == "event First":
            await hold.wait()

    cluster.fault = fault
    recorder, other = recorder_of(cluster), job_manifest()
    other["metadata"] |= {"namespace": "other", "uid": "another"}
    recorder.tell(job_manifest(), EVENTS)
    recorder.tell(other, EVENTS[1:])
    async with asyncio.timeout(5):
        while recorded(cluster) != ["Second", "Third"]:  # noqa: ASYNC110 - the cluster does not notify
            await asyncio.sleep(0)
    hold.set()
    await recorder.idle()
    assert recorded(cluster) == ["Second", "Third", "First", "Second", "Third"]


async def test_a_job_records_a_limited_number_of_events() -> None:
    cluster, time = MemoryCluster(), [NOW]
    recorder, other = EventRecorder(cluster, lambda: time[0]), job_manifest("other")
    other["metadata"]["uid"] = "another"
    for _ in range(1000):
        recorder.tell(job_manifest(), EVENTS[:1])
        await recorder.idle()
    assert len(cluster.events) == 50
    recorder.tell(other, EVENTS)
    await recorder.idle()
    assert recorded(cluster)[50:] == ["First", "Second", "Third"]
    time[0] += timedelta(seconds=25)
    recorder.tell(job_manifest(), EVENTS)
    await recorder.idle()
    assert recorded(cluster)[53:] == ["First", "Second"]
