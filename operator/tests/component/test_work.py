"""Passes: what each result means for the next turn, the metrics and the worker. Virtual time."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from memory_cluster import MemoryCluster
from torchrun_operator.cluster.port import ClusterError, ConflictError, Key, NotSyncedError
from torchrun_operator.reconcile.loop import namespace_of, resync, work
from torchrun_operator.reconcile.queue import WorkQueue
from torchrun_operator.reconcile.reconciler import Outcome
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.health import Liveness, Readiness
from torchrun_operator.telemetry.metrics import Metrics
from virtual_time import now, run_virtually

KEY: Key = ("team", "digits")
SETTINGS = Settings(resync_seconds=100, min_reconcile_interval=1, stuck_seconds=10)


@dataclass
class Scripted:
    """Implements Reconciles: passes end as the script says, and then with success."""

    script: Iterator[Outcome | Exception]
    takes_seconds: float = 0.0
    stubborn: bool = False
    """It cannot be cancelled."""
    at: list[float] = field(default_factory=list)
    """When passes began."""

    async def reconcile(self, key: Key) -> Outcome:
        """See Reconciles.reconcile."""
        assert key == KEY
        self.at.append(round(now(), 1))
        end = now() + self.takes_seconds
        while now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        result = next(self.script, Outcome())
        if isinstance(result, Exception):
            raise result
        return result


@dataclass
class Bench:
    """A worker at its queue."""

    reconciler: Scripted
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))
    liveness: Liveness = field(default_factory=lambda: Liveness(now))

    def __post_init__(self) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(now, namespace_of, 2, spacing_seconds=1.0, sustained_seconds=1.0)

    def start(self) -> "asyncio.Task[None]":
        return asyncio.create_task(work(self.queue, self.reconciler, self.metrics, self.liveness, SETTINGS))

    def count(self, name: str) -> dict[str, float]:
        """Return a counter's values by the value of its label."""
        return {
            next(iter(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.metrics.text().decode())
            for sample in family.samples
            if sample.name == f"torchrun_operator_{name}_total" and sample.value
        }


def play(script: Sequence[Outcome | Exception], seconds: float, takes_seconds: float = 0.0) -> Bench:
    """Wake the job once, let the worker run for that time, and stop it."""
    bench: list[Bench] = []

    async def main() -> None:
        bench.append(Bench(Scripted(iter(script), takes_seconds)))
        worker = bench[0].start()
        bench[0].queue.add(KEY)
        await asyncio.sleep(seconds)
        bench[0].queue.close()
        await worker

    run_virtually(main())
    return bench[0]


DOWN = ClusterError(0, "ClientConnectorError", "no answer")


@pytest.mark.parametrize(
    ("script", "times", "results"),
    [
        ([Outcome(look_again_seconds=5)], [0, 5], {"ok": 2}),
        ([Outcome(gone=True)], [0], {"ok": 1}),
        ([ConflictError(409, "Conflict", "it has changed")], [0, 1], {"conflict": 1, "ok": 1}),
        ([DOWN, DOWN, DOWN], [0, 0.5, 1.5, 3.5], {"error": 3, "ok": 1}),
        ([ValueError("a bug"), DOWN], [0, 0.5, 1.5], {"error": 2, "ok": 1}),
    ],
    ids=["a timer", "gone", "conflict", "the API server is down", "a bug"],
)
def test_what_follows_a_pass(script: list[Outcome | Exception], times: list[float], results: dict[str, float]) -> None:
    bench = play(script, 60)
    assert (bench.reconciler.at, bench.count("reconciles")) == (times, results)


def test_every_job_gets_a_turn_now_and_then() -> None:
    at = play([Outcome(look_again_seconds=1000)], 1000).reconciler.at
    pauses = [later - sooner for sooner, later in itertools.pairwise(at)]
    assert len(pauses) >= 8
    assert all(80 <= pause <= 120 for pause in pauses)


def test_errors_are_counted_by_kind() -> None:
    assert play([DOWN, ValueError("a bug")], 60).count("errors") == {"ClientConnectorError": 1, "ValueError": 1}


def test_a_bug_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    play([ValueError("a bug")], 60)
    record = next(record for record in caplog.records if record.exc_info)
    assert "the next attempt is in 0.5 s" in record.getMessage()


def test_a_pass_that_takes_too_long_is_noticed() -> None:
    async def main() -> None:
        bench = Bench(Scripted(iter(()), takes_seconds=30, stubborn=True))
        worker = bench.start()
        bench.queue.add(KEY)
        await asyncio.sleep(9)
        assert bench.liveness.stuck() == []
        await asyncio.sleep(2)
        assert [line.split(":")[0] for line in bench.liveness.stuck()] == ["reconcile team/digits"]
        await asyncio.sleep(20)
        assert bench.liveness.stuck() == []
        bench.queue.close()
        await worker

    run_virtually(main())


def test_a_pass_that_waits_too_long_is_given_up() -> None:
    """Half of the time after which a pass counts as stuck, so that a hanging API server does not end the operator."""
    bench = play([], 20, takes_seconds=30)
    assert (bench.reconciler.at, bench.count("errors")) == ([0, 5.5, 11.5, 18.5], {"PassTimeout": 4})


def test_a_job_that_is_not_synced_yet_waits_for_its_watch() -> None:
    bench = play([NotSyncedError(0, "NotSynced", "not listed yet")], 60)
    assert (bench.reconciler.at, bench.count("reconciles"), bench.count("errors")) == ([0], {"not synced": 1}, {})


@dataclass
class Hanging:
    """Implements Reconciles: passes in one namespace do not end."""

    hangs: str
    passed: list[Key] = field(default_factory=list)

    async def reconcile(self, key: Key) -> Outcome:
        """See Reconciles.reconcile."""
        if key[0] == self.hangs:
            await asyncio.Event().wait()
        self.passed.append(key)
        return Outcome()


def test_a_namespace_whose_passes_hang_delays_no_other() -> None:
    async def main() -> None:
        queue: WorkQueue[Key] = WorkQueue(now, namespace_of, 2)
        reconciler = Hanging("hangs")
        settings = SETTINGS.model_copy(update={"workers": 2})
        worker = asyncio.create_task(work(queue, reconciler, Metrics("test"), Liveness(now), settings))
        for number in range(50):
            queue.add(("hangs", f"job-{number}"))
        for number in range(5):
            queue.add(("works", f"job-{number}"))
        await asyncio.sleep(0.1)
        assert reconciler.passed == [("works", f"job-{number}") for number in range(5)]
        worker.cancel()
        await asyncio.wait([worker])

    run_virtually(main())


def test_a_pass_under_way_ends_before_the_worker_does() -> None:
    bench = play([], 3, takes_seconds=4)
    assert bench.count("reconciles") == {"ok": 1}


class Listed(MemoryCluster):
    """A cluster that lists its jobs only from a certain time on."""

    def __init__(self, listable_from: float) -> None:
        super().__init__()
        self.listable_from = listable_from

    async def list_jobs(self, namespace: str) -> Sequence[tuple[str, str]]:
        """See Cluster.list_jobs."""
        assert namespace == "team"
        if now() < self.listable_from:
            raise DOWN
        return [KEY, ("team", "other")]


def test_all_jobs_are_listed_at_the_start_and_now_and_then() -> None:
    async def main() -> None:
        readiness = Readiness(["jobs listed"])
        queue: WorkQueue[Key] = WorkQueue(now, spacing_seconds=0.0, sustained_seconds=0.001)
        lister = asyncio.create_task(resync(queue, Listed(listable_from=12), "team", readiness, SETTINGS))
        await asyncio.sleep(11)
        assert (queue.depth, readiness.awaited) == (0, ("jobs listed",))
        turns = await take_all(queue, 4)
        assert turns == [(KEY, 15), (("team", "other"), 15), (KEY, 115), (("team", "other"), 115)]
        assert readiness.awaited == ()
        lister.cancel()
        await asyncio.wait([lister])

    run_virtually(main())


async def take_all(queue: WorkQueue[Key], count: int) -> list[tuple[Key, int]]:
    turns = []
    for _ in range(count):
        key = await queue.get()
        turns.append((key, round(now())))
        queue.done(key)
    return turns
