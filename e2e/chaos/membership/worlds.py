"""The rules for the worlds that trained, from the journal of the workers. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.membership.plan import HARMLESS, PLANNED
from chaos.membership.records import Fault, Snapshot, Start, Step, Violation

_ONE_ROUND_SECONDS = 60.0
"""Workers of one round start within this time. A later one with the same address has drawn a used port again."""
_AFTERMATH_SECONDS = 20.0
"""For this long, an unannounced fault may still end rounds: until all processes know it."""


@dataclass(frozen=True)
class World:
    """The steps of one round, under one MASTER_ADDR and MASTER_PORT."""

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
    """A change from one world that trained to the next."""

    time: float
    """Time of the first step of the next world."""
    seconds: float
    lost: int
    """Number of repeated steps."""
    planned: bool
    """Whether only announced changes can have caused it."""


def worlds_of(steps: Iterable[Step]) -> list[World]:
    """Group steps by round, in the order of the first steps."""
    found: dict[tuple[str, int], list[Step]] = {}
    for step in sorted(steps, key=lambda step: step.time):
        found.setdefault((step.master, step.resumed), []).append(step)
    return [World(master, tuple(of_one)) for (master, _), of_one in found.items()]


def one_master_at_a_time(worlds: Sequence[World]) -> list[Violation]:
    """No world takes a step after a later world has taken its first."""
    wrong = []
    for position, world in enumerate(worlds):
        for younger in worlds[position + 1 :]:
            late = [step for step in world.steps if step.time > younger.first.time]
            if late:
                what = (
                    f"{len(late)} steps up to {late[-1].done} under {world.master} after {younger.master} had begun "
                    f"(with step {younger.first.done}), for {late[-1].time - younger.first.time:.2f} s"
                )
                wrong.append(Violation(younger.first.time, "two-masters", what))
    return wrong


def rounds_agree(starts: Iterable[Start], steps: Iterable[Step]) -> list[Violation]:
    """All workers of a round agree on world size and run and have distinct ranks. All of them train."""
    rounds: dict[str, list[list[Start]]] = {}
    for start in sorted(starts, key=lambda start: start.time):
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
    for world in worlds_of(steps):
        began = [members for members in rounds.get(world.master, []) if members[0].time <= world.first.time]
        ranks = sorted(member.rank for member in began[-1]) if began else []
        if ranks != list(range(world.first.world)):
            what = f"under {world.master} {world.first.world} workers train, but ranks {ranks} have started"
            wrong.append(Violation(world.first.time, "round", what))
    return wrong


def steps_follow(worlds: Sequence[World], snapshots: Sequence[Snapshot]) -> list[Violation]:
    """Within a world, each step follows the last. A world resumes from the newest complete snapshot or a later one."""
    wrong = []
    for world in worlds:
        numbers = [step.done for step in world.steps]
        if numbers != list(range(world.first.resumed + 1, world.first.resumed + 1 + len(numbers))):
            wrong.append(
                Violation(world.first.time, "steps", f"under {world.master} the steps {numbers} do not follow")
            )
        complete = [known for known in snapshots if known.time < world.first.time and known.master != world.master]
        newest = max((known.step for known in complete), default=0)
        if world.first.resumed < newest:
            what = f"{world.master} resumed from step {world.first.resumed}, the newest snapshot was of step {newest}"
            wrong.append(Violation(world.first.time, "snapshot", what))
    return wrong


def changes_of(worlds: Sequence[World], faults: Sequence[Fault]) -> list[Change]:
    """Return the changes from each world to the next."""
    return [
        Change(
            time=after.first.time,
            seconds=after.first.time - before.last.time,
            lost=max(0, before.last.done - after.first.resumed),
            planned=_was_planned(before.last.time, after.first.time, faults),
        )
        for before, after in pairwise(worlds)
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
