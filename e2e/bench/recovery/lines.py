"""The output of the training script: a line of JSON when workers start, and one for each step."""

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Boot:
    """The start of rank 0, once in each round. Times are in seconds since 1970."""

    time: float
    world: int
    pod: str


@dataclass(frozen=True)
class Step:
    """A step of rank 0."""

    time: float
    done: int
    """Number of steps done, including this one."""
    world: int
    began: float
    """The time of the Boot of these workers."""
    resumed: int
    """Number of steps in the snapshot from which they resumed."""
    pod: str


Line = Boot | Step


def parse(text: str, pod: str) -> Line | None:
    """Parse a line of the log of a pod; None for lines of other programs."""
    if not text.startswith('{"bench"'):
        return None
    try:
        values = json.loads(text)
        if values["bench"] == "boot":
            return Boot(float(values["time"]), int(values["world"]), pod)
        if values["bench"] == "step":
            return Step(
                time=float(values["time"]),
                done=int(values["done"]),
                world=int(values["world"]),
                began=float(values["began"]),
                resumed=int(values["resumed"]),
                pod=pod,
            )
    except (ValueError, KeyError):
        pass  # Truncated when its process was killed.
    return None


def steps_of(lines: Iterable[Line]) -> list[Step]:
    """Return the distinct steps, in order."""
    return sorted({line for line in lines if isinstance(line, Step)}, key=lambda step: step.time)


def boots_of(lines: Iterable[Line]) -> list[Boot]:
    """Return the distinct starts of rank 0, in order."""
    return sorted({line for line in lines if isinstance(line, Boot)}, key=lambda boot: boot.time)


def trained_for(lines: Iterable[Line], world: int, now: float) -> float:
    """Return for how many seconds the latest workers have trained with that world size; 0 if they do not."""
    steps = steps_of(lines)
    boots = boots_of(lines)
    if not steps or not boots or steps[-1].began < boots[-1].time:
        return 0.0
    latest = [step for step in steps if step.began == steps[-1].began]
    if latest[-1].world != world or now - latest[-1].time > _STALE_SECONDS:
        return 0.0
    return latest[-1].time - latest[0].time


_STALE_SECONDS = 2.0
