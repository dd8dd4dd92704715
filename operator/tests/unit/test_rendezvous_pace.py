"""Time in the rendezvous host: when a round is overdue, and which nodes do not join the next one."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from torchrun_rendezvous.memory import Memory, Running
from torchrun_rendezvous.pace import Stopwatch
from torchrun_rendezvous.protocol import Progress, Target
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.view import KICK, Node, View

A, B, C = (Node(f"10.0.0.{i}", 1, 0) for i in range(1, 4))
TARGET = Target(1, 3, 2, 5.0, (), progress_deadline_seconds=20.0, start_deadline_seconds=100.0)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SINCE = "1970-01-01T00:00:{:02d}.000Z"


def running(number: int, *, kicked: bool = False) -> Running:
    members = {A: 0, B: 1, C: 2}
    return Running(number, members, frozenset(members), dict.fromkeys(members, 0.0), kicked=kicked)


@dataclass
class Clock:
    """A host that checks the time once per second."""

    watch: Stopwatch = Stopwatch()  # noqa: RUF009 - frozen
    now: float = 0.0
    number: int | None = None
    step: int = 0

    def live(self, script: str) -> None:
        """Run `r4` (round 4 runs), `rx` (none), `3s` (seconds), `5` (a step), `b` (a beat), `9!` (the end)."""
        beat = 0
        for word in script.split():
            if word[0] == "r":
                self.number = None if word == "rx" else int(word[1:])
                self.tick(0.0)
            elif word[-1] == "s":
                for _ in range(int(word[:-1])):
                    self.tick(1.0)
            else:
                beat += word == "b"
                self.step = int(word.strip("!")) if word != "b" else self.step
                progress = Progress(self.step, NOON, beat=beat, total_steps=self.step if "!" in word else 1000)
                self.watch = self.watch.reported(progress, self.now)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.watch = self.watch.ticked(running(self.number) if self.number is not None else None, seconds, self.now)


def overdue(number: int, step: int | None, seconds: float, since: int, *, starting: bool = False) -> dict[str, object]:
    return {"round": number, "step": step, "starting": starting, "seconds": seconds, "since": SINCE.format(since)}


@pytest.mark.parametrize(
    ("script", "pause", "start", "expected"),
    [
        ("r4 500s", 1, None, overdue(4, None, 100.0, 0, starting=True)),
        ("r4 99s", 1, None, None),
        ("r4 30s 1 30s", 1, None, None),
        ("r4 30s 1 1s 2 19s", 1, 32, None),
        ("r4 30s 1 1s 2 20s", 1, 32, overdue(4, 2, 20.0, 31)),
        ("r4 30s 1 1s 2 19s 2 1s", 1, 32, overdue(4, 2, 20.0, 31)),
        ("r4 30s 1 1s 2 19s b 19s", 32, 32, None),
        ("r4 30s 1 1s 2 25s 3", 32, 32, None),
        ("r4 2s 1 1s 2 9s 3! 500s", 16, 4, None),
        ("r4 2s 1 1s 2 25s rx 60s", 32, 4, None),
        ("r4 2s 1 1s 2 1s rx 1s r5 19s 1 90s", 1, 4, overdue(5, 1, 100.0, 5, starting=True)),
        ("r4 2s 1 1s 2 1s rx 1s r5 19s rx", 1, 32, None),
        ("r4 50s rx r5 1s", 1, None, None),
        ("r4 50s 1 50s rx r5 1s", 1, None, None),
    ],
    ids=[
        "a start that lasts",
        "a start",
        "one reported step is still the start",
        "shortly before the deadline",
        "at the deadline",
        "the same step again is no progress",
        "a beat is",
        "in the end there was a step",
        "after the last step there is nothing to wait for",
        "no round runs",
        "the next round starts",
        "a start that was cut short counts where one has been seen",
        "and does not where none has",
        "one step is not known to be a start",
    ],
)
def test_pace(script: str, pause: int, start: int | None, expected: dict[str, object] | None) -> None:
    clock = Clock()
    clock.live(script)
    document = {"longestPauseSeconds": pause, "longestStartSeconds": start, "overdue": expected}
    assert clock.watch.pace(TARGET).document() == document
    assert clock.watch.pace(None).document() == {**document, "overdue": None}
    unlimited = replace(TARGET, progress_deadline_seconds=None, start_deadline_seconds=None)
    assert clock.watch.pace(unlimited).document() == {**document, "overdue": None}


def test_time_in_which_the_host_stood_still_is_not_counted() -> None:
    clock = Clock()
    clock.live("r4 2s 1 1s 2 1s")
    assert clock.watch.ticked(running(4), 3600.0, 3604.0).idle == 2.0


def test_a_round_that_was_told_to_end_is_not_timed() -> None:
    clock = Clock()
    clock.live("r4 2s 1 1s 2 25s")
    ended = clock.watch.ticked(running(4, kicked=True), 0.1, 29.0)
    assert ended.pace(TARGET).overdue is None


def test_pauses_are_forgotten_after_two_days_and_not_before_one() -> None:
    watch = replace(Stopwatch(), round=4, steps=5, longest_start=9.0, pauses=(60.0, 0.0), age=86_399.5)
    first = watch.ticked(running(4), 1.0, 0.0)
    assert first.pauses == (0.0, 60.0)
    assert first.pace(None).longest_pause_seconds == 64
    second = replace(first, age=86_399.5, idle=0.0).ticked(running(4), 1.0, 0.0)
    assert (second.pauses, second.longest_start) == ((0.0, 0.0), 9.0)


# --- nodes that do not come back --------------------------------------------------------------------------------------

KICKED = replace(running(4, kicked=True), requested=True)
ENDING = View(round=5, waiting=frozenset({KICK}), heartbeats=dict.fromkeys((A, B, C), 0.0))


@dataclass(frozen=True)
class Case:
    view: View
    memory: Memory
    awaited: dict[str, float]
    missing: tuple[str, ...] = ()
    target: Target = TARGET


def back(*nodes: Node) -> View:
    return replace(ENDING, participants=dict.fromkeys(nodes, 0))


CASES = {
    "nothing has ended": Case(replace(ENDING, waiting=frozenset()), Memory(running=running(4)), {}),
    "the round has to end": Case(ENDING, Memory(running=KICKED), {n.address: 100.0 for n in (A, B, C)}),
    "two are back": Case(
        back(A, B), Memory(running=KICKED, awaited={n.address: 60.0 for n in (A, B, C)}), {C.address: 60.0}
    ),
    "the third should be by now": Case(
        back(A, B),
        Memory(running=KICKED, awaited={n.address: 39.0 for n in (A, B, C)}),
        {C.address: 39.0},
        (C.address,),
    ),
    "it is not waited for if it is not wanted": Case(
        back(A, B),
        Memory(running=KICKED, awaited={C.address: 39.0}),
        {},
        target=replace(TARGET, leavers=(C.address,)),
    ),
    "it has no heartbeat any more": Case(
        replace(back(A, B), heartbeats={A: 0.0, B: 0.0}),
        Memory(running=KICKED, awaited={C.address: 39.0}),
        {C.address: 39.0},
        (C.address,),
    ),
    "the others train without it": Case(
        View(6, complete=True, participants={A: 0, B: 1}, heartbeats={A: 0.0, B: 0.0}),
        Memory(running=Running(6, {A: 0, B: 1}, frozenset({A, B}), {A: 0.0, B: 0.0}), awaited={C.address: 39.0}),
        {C.address: 39.0},
        (C.address,),
    ),
    "it has come after all": Case(
        replace(back(C), round=7, waiting=frozenset(), heartbeats={A: 0.0, B: 0.0, C: 0.0}),
        Memory(running=Running(6, {A: 0, B: 1}, frozenset({A, B}), {A: 0.0, B: 0.0}), awaited={C.address: 39.0}),
        {},
        target=replace(TARGET, size=2),
    ),
    "the job is about to end": Case(replace(ENDING, finished=1), Memory(running=KICKED), {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_awaited(case: Case) -> None:
    memory = decide(case.view, case.target, 100.0, case.memory).memory
    assert (memory.awaited, memory.missing) == (case.awaited, case.missing)
