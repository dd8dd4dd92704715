"""Supervision: the operator restarts a watch that ends or hangs, or ends itself. Virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from torchrun_operator.cluster.port import Key
from torchrun_operator.cluster.watch.base import HEARTBEAT_SECONDS, Watch, WatchHungError
from torchrun_operator.process.supervision import beat, keep, supervise
from torchrun_operator.reconcile.queue import WorkQueue
from torchrun_operator.telemetry.health import Liveness
from virtual_time import now, run_virtually


class Scripted(Watch):
    """A watch whose runs follow the script. The last step repeats."""

    def __init__(self, *script: str) -> None:
        super().__init__("jobs", "team")
        self.script = list(script)
        self.starts: list[float] = []

    async def run(self) -> None:
        """See Watch.run."""
        self.starts.append(round(now(), 1))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if step == "hung":
            raise WatchHungError("the thread does not respond")
        if step != "silent":
            self.connected()
        if step == "fails":
            raise ValueError("a bug")
        if step == "fails at once":
            self.last_heartbeat = -1
            raise ValueError("a bug")
        if step == "ends":
            return
        while step == "works":
            self.beat()
            await asyncio.sleep(20)
        try:
            await asyncio.Event().wait()
        finally:
            while step == "cannot be stopped":
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    if now() > 900:
                        raise


def kept(seconds: float, *script: str) -> tuple[Scripted, BaseException | None]:
    """Keep such a watch for that time. Return it, and the error that keep() raised."""

    async def main() -> tuple[Scripted, BaseException | None]:
        watch = Scripted(*script)
        keeping = asyncio.create_task(keep(watch))
        await asyncio.wait([keeping], timeout=seconds)
        error = keeping.exception() if keeping.done() else None
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(1000)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return watch, error

    return run_virtually(main())


@pytest.mark.parametrize(
    ("script", "starts"),
    [
        (["works"], [0]),
        (["ends", "works"], [0, 1]),
        (["fails", "works"], [0, 1]),
        (["fails", "fails", "fails", "works"], [0, 1, 3, 7]),
    ],
)
def test_a_watch_that_ends_is_started_again(script: list[str], starts: list[float]) -> None:
    watch, error = kept(600, *script)
    assert (watch.starts, error) == (starts, None)


def test_a_watch_without_a_heartbeat_is_started_again() -> None:
    watch, error = kept(600, "silent", "works")
    assert error is None
    assert watch.starts[0] == 0
    assert HEARTBEAT_SECONDS < watch.starts[1] <= HEARTBEAT_SECONDS + 3


def test_pauses_grow_and_stay_bounded() -> None:
    watch, error = kept(600, "ends")
    assert error is None, "each run gave a heartbeat: it is of use"
    pauses = [later - sooner for sooner, later in zip(watch.starts, watch.starts[1:], strict=False)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {30}


@pytest.mark.parametrize("step", ["silent", "fails at once"])
def test_a_watch_that_cannot_be_brought_back_ends_the_operator(step: str) -> None:
    _, error = kept(3600, step)
    assert isinstance(error, WatchHungError)
    assert "no heartbeat in 5 starts" in str(error)


def test_a_watch_that_hangs_ends_the_operator_at_once() -> None:
    watch, error = kept(600, "hung")
    assert isinstance(error, WatchHungError)
    assert watch.starts == [0]


def test_a_watch_that_cannot_be_stopped_ends_the_operator() -> None:
    _, error = kept(600, "cannot be stopped")
    assert isinstance(error, WatchHungError)
    assert "not stopped" in str(error)


def test_healthz_names_a_watch_without_a_heartbeat() -> None:
    async def main() -> None:
        watch, liveness = Scripted("silent"), Liveness(now)
        liveness.follow(watch.name, HEARTBEAT_SECONDS, lambda: watch.silent_seconds)
        keeping = asyncio.create_task(keep(watch))
        await asyncio.sleep(HEARTBEAT_SECONDS)
        assert liveness.stuck() == []
        await asyncio.sleep(10)
        assert liveness.stuck() == [
            "watch of jobs in namespace team: no heartbeat for 55 s, expected within 45 s",
        ]
        watch.script = ["works"]
        await asyncio.sleep(HEARTBEAT_SECONDS)
        assert liveness.stuck() == []
        keeping.cancel()
        await asyncio.wait([keeping])

    run_virtually(main())


def outcome(act: Callable[[asyncio.Event, "asyncio.Task[None]"], None]) -> int:
    """Supervise a worker and a watch, let `act` happen after a while, and return the exit status."""

    async def main() -> int:
        stop = asyncio.Event()
        queue: WorkQueue[Key] = WorkQueue(now)
        watch = asyncio.create_task(keep(Scripted("works")), name="watch of jobs")
        worker: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(30), name="worker")
        beating = asyncio.create_task(beat(Liveness(now)), name="heartbeat")
        asyncio.get_running_loop().call_later(25, act, stop, watch)
        status = await supervise(stop, queue, [worker], [watch, beating])
        assert worker.done(), "the pass under way may end"
        assert not worker.cancelled()
        assert beating.cancelled()
        return status

    return run_virtually(main())


def test_a_signal_ends_the_operator_well() -> None:
    assert outcome(lambda stop, _: stop.set()) == 0


def test_a_part_that_ends_ends_the_operator_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def cancel(_: asyncio.Event, watch: "asyncio.Task[None]") -> None:
        watch.cancel()

    assert outcome(cancel) == 1
    assert "watch of jobs has ended: the operator stops" in caplog.text


def test_a_cancelled_operator_ends_its_parts_first() -> None:
    """Otherwise they go on without the connections that their owner has closed."""

    async def main() -> None:
        queue: WorkQueue[Key] = WorkQueue(now)
        parts = [asyncio.create_task(keep(Scripted("works"))), asyncio.create_task(beat(Liveness(now)))]
        workers: list[asyncio.Task[None]] = [asyncio.create_task(asyncio.sleep(1000))]
        supervising = asyncio.create_task(supervise(asyncio.Event(), queue, workers, parts))
        await asyncio.sleep(25)
        supervising.cancel()
        await asyncio.wait([supervising])
        assert supervising.cancelled()
        assert [task.cancelled() for task in [*workers, *parts]] == [True, True, True]
        assert (now(), asyncio.all_tasks()) == (25, {asyncio.current_task()})

    run_virtually(main())
