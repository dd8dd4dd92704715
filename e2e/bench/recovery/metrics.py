"""Computes the figures of one repetition from its lines. Pure."""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.recovery.lines import Line, Step, boots_of, steps_of

_BEFORE_STEPS = 50
_CURVE_BEFORE_SECONDS = 5.0
_STRAIGHT_SECONDS = 1.0
_NOMINAL_STEP_SECONDS = 0.1


@dataclass(frozen=True)
class Measures:
    """The cost of a fault, in seconds. None if training did not get that far within the limit."""

    next_step_seconds: float | None
    """From the fault to the first step of workers that started after it, for any number of workers.

    If no workers started after it, to the next step.
    """
    full_size_seconds: float | None
    """From the fault to the first such step with all wanted workers."""
    steps_lost: int | None
    """Number of repeated steps."""
    rounds: int
    """How often workers started: 1 if the first round after the fault had the wanted size."""
    pause_seconds: float | None
    """Longest time without a step."""
    lost_seconds: float | None
    """Time without progress: no steps, or repeated steps."""
    goodput: float | None
    """Share of the window after the fault that became progress, assuming no further faults."""


def first_new_step(lines: Iterable[Line], fault: float, world: int | None = None) -> Step | None:
    """Return the first step of workers that started after the fault, optionally with that world size."""
    new = (step for step in steps_of(lines) if step.began > fault)
    return next((step for step in new if world is None or step.world == world), None)


def restarted(lines: Iterable[Line], fault: float) -> bool:
    """Whether workers started after the fault."""
    return any(boot.time > fault for boot in boots_of(lines))


def measure(
    lines: Sequence[Line], fault: float, world: int, until: float, window: float, *, kept: bool = False
) -> Measures:
    """Measure a repetition that was watched until a moment. It has recovered once `world` workers train.

    With ``kept``, the workers of before may train on; then the pauses until that moment count.
    """
    steps = steps_of(lines)
    kept = kept and not restarted(lines, fault)
    if kept:
        later = [step for step in steps if step.time > fault]
        following = next(iter(later), None)
        full = next((step for step in later if step.world == world), None)
    else:
        following, full = first_new_step(lines, fault), first_new_step(lines, fault, world)
    end = full.time if full and not kept else until
    # The job may have earlier repetitions: only the workers at the time of the fault count.
    met = max((step.began for step in steps if step.time <= fault), default=fault)
    seen = [step for step in steps if step.began >= met and step.time <= end]
    lost = _lost_seconds(seen, fault, end)
    return Measures(
        next_step_seconds=_since(fault, following),
        full_size_seconds=_since(fault, full),
        steps_lost=repeated_steps(seen) if following else None,
        rounds=sum(1 for boot in boots_of(lines) if fault < boot.time <= end),
        pause_seconds=_pause(seen, fault, end),
        lost_seconds=lost,
        goodput=None if lost is None else round(1 - min(window, lost) / window, 4),
    )


def repeated_steps(steps: Sequence[Step]) -> int:
    """Return the number of repeated steps, over all starts of workers."""
    done, began, repeated = 0, None, 0
    for step in steps:
        if step.began != began and done:
            repeated += max(0, done - step.resumed)
        began, done = step.began, step.done
    return repeated


def _since(fault: float, step: Step | None) -> float | None:
    return None if step is None else round(step.time - fault, 2)


def _pause(steps: Sequence[Step], fault: float, end: float) -> float | None:
    """Return the longest time without a step that ended after the fault."""
    before = [step.time for step in steps if step.time <= fault]
    if not before:
        return None
    times = [before[-1], *(step.time for step in steps if step.time > fault), end]
    return round(max(later - earlier for earlier, later in itertools.pairwise(times)), 2)


def _lost_seconds(steps: Sequence[Step], fault: float, end: float) -> float | None:
    before = [step for step in steps if step.time <= fault]
    if not before:
        return None
    latest = [step.time for step in before if step.began == before[-1].began][-_BEFORE_STEPS:]
    gaps = [later - earlier for earlier, later in itertools.pairwise(latest)]
    period = statistics.median(gaps) if gaps else _NOMINAL_STEP_SECONDS
    progress = max(step.done for step in steps) - max(step.done for step in before)
    return round(max(0.0, (end - fault) - progress * period), 2)


def curve(lines: Sequence[Line], fault: float, until: float) -> list[list[float]]:
    """Return the points of the line of steps over time: [seconds since the fault, steps since the fault].

    The line is flat between the last step of one round and the first step of the next, and in pauses of more than a
    second. Elsewhere it is straight.
    """
    steps = [step for step in steps_of(lines) if fault - _CURVE_BEFORE_SECONDS <= step.time <= until]
    base = max((step.done for step in steps if step.time <= fault), default=0)
    corners: list[list[float]] = []

    def corner(time: float, done: int) -> None:
        point = [round(time - fault, 2), done - base]
        if point not in corners[-1:]:
            corners.append(point)

    for earlier, later in itertools.pairwise(steps):
        if not corners:
            corner(earlier.time, earlier.done)
        if later.began != earlier.began or later.time - earlier.time > _STRAIGHT_SECONDS:
            corner(earlier.time, earlier.done)
            corner(later.time, earlier.done)
            corner(later.time, later.done)
    for last in steps[-1:]:
        corner(last.time, last.done)
        if until - last.time > _STRAIGHT_SECONDS:
            corner(until, last.done)
    return corners
