"""The rules for stretches of training, from the journal of the workers. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.membership.plan import HARMLESS, PLANNED
from chaos.membership.records import Fault, Snapshot, Start, Step, Violation

REPAIRED = "127.0.0.1:1"
"""What the rendezvous host publishes in place of a rank 0 that is gone. No process answers there, and several rounds
may have it: a step under it would be of no round that has started.
"""
_ONE_ROUND_SECONDS = 60.0
"""Workers of one round start within this time. A later one with the same address has drawn a used port again."""
_AFTERMATH_SECONDS = 20.0
"""For this long, an unannounced fault may still end rounds: until all processes know it."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of training: the steps of one round, under one MASTER_ADDR and MASTER_PORT."""

    master: str
    steps: tuple[Step, ...]

    @property
    def first(self) -> Step:
        """Its first step."""
        return self.steps[0]

    @property
    def last(self) -> Step:
        """Its last step."""
        return self.steps[-1]


@dataclass(frozen=True)
class Change:
    """A change from one stretch to the next."""

    time: float
    """Time of the first step of the next world."""
    seconds: float
    lost: int
    """Number of repeated steps."""
    planned: bool
    """Whether only announced changes can have caused it."""


def stretches_of(steps: Iterable[Step]) -> list[Stretch]:
    """Sort steps by the rounds in which they were done; rounds in the order of their first steps."""
    found: dict[tuple[str, int], list[Step]] = {}
    for step in sorted(steps, key=lambda step: step.time):
        found.setdefault((step.master, step.resumed), []).append(step)
    return [Stretch(master, tuple(of_one)) for (master, _), of_one in found.items()]


def one_master_at_a_time(stretches: Sequence[Stretch]) -> list[Violation]:
    """No stretch takes a step after a later one has taken its first."""
    wrong = []
    for position, stretch in enumerate(stretches):
        for younger in stretches[position + 1 :]:
            late = [step for step in stretch.steps if step.time > younger.first.time]
            if late:
                what = (
                    f"{len(late)} steps up to {late[-1].done} under {stretch.master} after {younger.master} had begun "
                    f"(with step {younger.first.done}), for {late[-1].time - younger.first.time:.2f} s"
                )
                wrong.append(Violation(younger.first.time, "two-masters", what))
    return wrong


def rounds_agree(starts: Iterable[Start], steps: Iterable[Step]) -> list[Violation]:
    """All workers of a round agree on world size and run and have distinct ranks. All of them train."""
    rounds: dict[str, list[list[Start]]] = {}
    for start in sorted(starts, key=lambda start: start.time):
        if start.master == REPAIRED:
            continue
        known = rounds.setdefault(start.master, [])
        if not known or start.time - known[-1][0].time > _ONE_ROUND_SECONDS:
            known.append([])
        known[-1].append(start)
    wrong = []
    for master, of_master in rounds.items():
        for members in of_master:
            at = members[0].time
            sizes = {(member.world, member.run) for member in members}
            ranks = sorted(member.rank for member in members)
            if len(sizes) > 1:
                wrong.append(Violation(at, "round", f"under {master} workers disagree on (size, run): {sorted(sizes)}"))
            if len(set(ranks)) < len(ranks) or len({member.pod for member in members}) < len(members):
                seen = ", ".join(f"{member.rank}: {member.pod}" for member in members)
                wrong.append(Violation(at, "round", f"under {master} a rank or a pod comes twice: {seen}"))
            if any(rank >= members[0].world for rank in ranks):
                wrong.append(Violation(at, "round", f"under {master} ranks {ranks} in a world of {members[0].world}"))
    wrong += _trained_with_all(rounds, steps)
    return wrong


def _trained_with_all(rounds: dict[str, list[list[Start]]], steps: Iterable[Step]) -> list[Violation]:
    wrong = []
    for stretch in stretches_of(steps):
        began = [members for members in rounds.get(stretch.master, []) if members[0].time <= stretch.first.time]
        ranks = sorted(member.rank for member in began[-1]) if began else []
        if ranks != list(range(stretch.first.world)):
            what = f"under {stretch.master} {stretch.first.world} workers train, but ranks {ranks} have started"
            wrong.append(Violation(stretch.first.time, "round", what))
    return wrong


def steps_follow(stretches: Sequence[Stretch], snapshots: Sequence[Snapshot]) -> list[Violation]:
    """Within a stretch, each step follows the last. It resumes from the newest complete snapshot or a later one."""
    wrong = []
    for stretch in stretches:
        numbers = [step.done for step in stretch.steps]
        if numbers != list(range(stretch.first.resumed + 1, stretch.first.resumed + 1 + len(numbers))):
            wrong.append(
                Violation(stretch.first.time, "steps", f"under {stretch.master} the steps {numbers} do not follow")
            )
        complete = [known for known in snapshots if known.time < stretch.first.time and known.master != stretch.master]
        newest = max((known.step for known in complete), default=0)
        if stretch.first.resumed < newest:
            what = (
                f"{stretch.master} went on from step {stretch.first.resumed}, the newest snapshot was of step {newest}"
            )
            wrong.append(Violation(stretch.first.time, "snapshot", what))
    return wrong


def changes_of(stretches: Sequence[Stretch], faults: Sequence[Fault]) -> list[Change]:
    """Return how each stretch followed the one before it."""
    return [
        Change(
            time=after.first.time,
            seconds=after.first.time - before.last.time,
            lost=max(0, before.last.done - after.first.resumed),
            planned=_was_planned(before.last.time, after.first.time, faults),
        )
        for before, after in pairwise(stretches)
    ]


def _was_planned(ended: float, began: float, faults: Sequence[Fault]) -> bool:
    explaining = [f for f in faults if f.time <= began and f.until + _AFTERMATH_SECONDS >= ended]
    explaining = [fault for fault in explaining if fault.kind not in HARMLESS]
    return bool(explaining) and all(fault.kind in PLANNED for fault in explaining)


def planned_cost_nothing(changes: Iterable[Change]) -> list[Violation]:
    """A change that was announced to the workers loses no step."""
    return [
        Violation(change.time, "planned", f"{change.lost} steps lost although all changes were announced")
        for change in changes
        if change.planned and change.lost
    ]
