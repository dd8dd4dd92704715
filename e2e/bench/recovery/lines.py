"""What the training script writes: a line of JSON when workers start, and one for each step."""

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Boot:
    """Rank 0 has been started, which happens once in each round. Times are in seconds since 1970."""

    time: float
    world: int
    pod: str


@dataclass(frozen=True)
class Step:
    """Rank 0 has done a step."""

    time: float
    done: int
    """Steps done, this one included."""
    world: int
    began: float
    """The time of these workers' Boot."""
    resumed: int
    """The steps that were done when they went on from the snapshot."""
    pod: str


Line = Boot | Step


def parse(text: str, pod: str) -> Line | None:
    """Read a line of a pod's log; None for what others have written."""
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
        pass  # cut off when its process was killed
    return None


def steps_of(lines: Iterable[Line]) -> list[Step]:
    """Return the steps, each once, in the order in which they were done."""
    return sorted({line for line in lines if isinstance(line, Step)}, key=lambda step: step.time)


def boots_of(lines: Iterable[Line]) -> list[Boot]:
    """Return the starts of rank 0, each once, in their order."""
    return sorted({line for line in lines if isinstance(line, Boot)}, key=lambda boot: boot.time)


def trained_for(lines: Iterable[Line], world: int, now: float) -> float:
    """Return for how many seconds the latest workers have trained with that world size; 0 where they do not now."""
    steps = steps_of(lines)
    boots = boots_of(lines)
    if not steps or not boots or steps[-1].began < boots[-1].time:
        return 0.0
    latest = [step for step in steps if step.began == steps[-1].began]
    if latest[-1].world != world or now - latest[-1].time > _STALE_SECONDS:
        return 0.0
    return latest[-1].time - latest[0].time


_STALE_SECONDS = 2.0
