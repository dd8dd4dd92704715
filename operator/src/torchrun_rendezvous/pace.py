"""The time from one reported step to the next, and whether a round takes too long."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torchrun_rendezvous.documents import time_of
from torchrun_rendezvous.memory import Running
from torchrun_rendezvous.protocol import Overdue, Pace, Progress, Target

REMEMBERED_SECONDS = 86400.0
"""The minimum time for which a pause of the training is remembered."""
STALL_SECONDS = 1.0
"""More seconds between two ticks are a stall of the host."""


@dataclass(frozen=True)
class Stopwatch:
    """When the workers of the current round last reported a step, and the time between two steps.

    Seconds in which this process stood still are not counted: reports of that time may not have been read yet. A round
    has started once it has reported two steps: a script may report step 0 before it compiles its model for minutes.
    """

    round: int | None = None
    mark: tuple[int, int | None] | None = None
    """The step last reported, and the beat."""
    steps: int = 0
    done: bool = False
    """All steps are done: no further report comes."""
    idle: float = 0.0
    """Seconds since the mark changed or, while the round starts, since it began."""
    since: float = 0.0
    """The same as a time, in seconds since the epoch."""
    pauses: tuple[float, float] = (0.0, 0.0)
    """The longest pause of the last REMEMBERED_SECONDS, and of the time before."""
    age: float = 0.0
    longest_start: float | None = None

    @property
    def starting(self) -> bool:
        """Whether the round has not reported its second step yet."""
        return self.steps < 2

    @property
    def limited(self) -> bool:
        """Whether a further step is expected."""
        return self.round is not None and not self.done and (not self.starting or self.longest_start is not None)

    def ticked(self, running: Running | None, seconds: float, now: float) -> Stopwatch:
        """Let time pass, and detect that another round runs, or none."""
        seconds = min(seconds, STALL_SECONDS)
        number = running.round if running and not running.kicked else None
        watch = replace(self, idle=self.idle + seconds, age=self.age + seconds)
        if watch.age >= REMEMBERED_SECONDS:
            watch = replace(watch, pauses=(0.0, watch.pauses[0]), age=0.0)
        if number == watch.round:
            return watch
        # What was cut short would have taken longer: if that was no hang, the next time it may. But as long as no
        # round has ever started, it is not known whether the script reports at all.
        if watch.limited:
            watch = watch.timed()
        return replace(watch, round=number, mark=None, steps=0, done=False, idle=0.0, since=now)

    def reported(self, progress: Progress, now: float) -> Stopwatch:
        """Record the report of a worker. The same step again is not progress."""
        mark = (progress.step, progress.beat)
        if self.round is None or mark == self.mark:
            return self
        watch = self.timed() if self.steps else self
        watch = replace(watch, mark=mark, steps=self.steps + 1, done=progress.step == progress.total_steps)
        return watch if watch.steps == 1 else replace(watch, idle=0.0, since=now)

    def timed(self) -> Stopwatch:
        """Remember the length of this pause."""
        if self.starting:
            return replace(self, longest_start=max(self.idle, self.longest_start or 0.0))
        return replace(self, pauses=(max(self.idle, self.pauses[0]), self.pauses[1]))

    def limit(self, target: Target | None) -> float | None:
        """Return the seconds after which the round is overdue. None: never."""
        if target is None or self.round is None or self.done:
            return None
        return target.start_deadline_seconds if self.starting else target.progress_deadline_seconds

    @property
    def shown(self) -> float:
        """Return the figure for the metrics: 0 while no step is expected."""
        return round(self.idle, 1) if self.limited else 0.0

    def pace(self, target: Target | None) -> Pace:
        """Return the part of the state document about time. It changes rarely."""
        limit = self.limit(target)
        overdue = None
        if limit is not None and self.round is not None and self.idle >= limit:
            step = self.mark[0] if self.mark else None
            overdue = Overdue(self.round, step, self.starting, limit, time_of(self.since))
        longest = _power_of_two(self.longest_start) if self.longest_start is not None else None
        return Pace(_power_of_two(max(self.pauses)), longest, overdue)


def _power_of_two(seconds: float) -> int:
    """Round up, at least to 1, so that the operator hears of a longer pause a dozen times in a job's life."""
    return 1 << math.ceil(math.log2(max(1.0, seconds)))
