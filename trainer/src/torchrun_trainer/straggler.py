"""Stragglers: which rank all others wait for, found out by the ranks themselves.

Ranks leave the agreement that ends a step at the same moment. From then on each works by itself until it first has to
wait for others: in DistributedDataParallel's backward pass. So the time to the end of the forward pass (loading data,
computing) is a rank's own work; on a GPU it is measured there, since the processor only queues the work. Behind the
last collective of the step ranks work by themselves again, until they arrive at the agreement: whoever arrives after
the others has been slower there. The time in collectives themselves says nothing, it is the same for all.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

WINDOW_SECONDS = 30.0
WINDOW_STEPS = 20
WINDOWS = 3
"""So many in a row have to blame the same rank, and to acquit it."""
SHARE = 0.15
LEAST_SECONDS = 0.005
"""Less than this is what ranks differ by anyway: rank 0 writes the progress."""
_MOST_STEPS = 1024


class Times(NamedTuple):
    """Medians over the steps of a window, in seconds: to the end of the forward pass, to the agreement, to the end."""

    forward: float
    arrival: float
    step: float


@dataclass(frozen=True)
class Straggler:
    """The rank that all others wait for: how many seconds in each step, which takes ``step_seconds``."""

    rank: int
    lag_seconds: float
    step_seconds: float


def straggler(ranks: Sequence[Times]) -> Straggler | None:
    """Return the rank that is late by more than SHARE of a step, measured against the median of all others.

    A rank that is late in the forward pass makes all late together afterwards, unless nothing waits in between: so its
    lateness is the larger of the two, not their sum.
    """
    if len(ranks) < 2:
        return None
    step = statistics.median(times.step for times in ranks)
    lags = list(map(max, _lags([times.forward for times in ranks]), _lags([times.arrival for times in ranks])))
    worst = max(range(len(ranks)), key=lags.__getitem__)
    if lags[worst] < max(SHARE * step, LEAST_SECONDS):
        return None
    return Straggler(worst, lags[worst], step)


def _lags(values: Sequence[float]) -> list[float]:
    """Return by how much each is above the median of all others."""
    ordered, middle = sorted(values), len(values) - 2

    def other(position: int, without: int) -> float:
        return ordered[position if position < without else position + 1]

    places = [bisect_left(ordered, value) for value in values]
    medians = [(other(middle // 2, place) + other((middle + 1) // 2, place)) / 2 for place in places]
    return [value - median for value, median in zip(values, medians, strict=True)]


class Stragglers:
    """Measures this rank's steps and compares the ranks now and then. ``found`` is the same on all ranks.

    The cost of a step is a few readings of the clock; that of a comparison one ``all_gather`` of three numbers.
    """

    def __init__(self, world_size: int, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self.found: Straggler | None = None
        self._world_size = world_size
        self._device = device
        self._clock = clock
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._forward = _Stopwatch(clock)
        self._steps: deque[Times] = deque(maxlen=_MOST_STEPS)
        self._verdicts: deque[Straggler | None] = deque(maxlen=WINDOWS)
        self._began = self._left = self._arrived = clock()

    def watch(self, model: nn.Module) -> None:
        """Take the forward passes of this model for the work before the first collective."""
        parameter = next(model.parameters(), None)
        if isinstance(model, DistributedDataParallel) and parameter is not None:
            if parameter.is_cuda:
                self._forward = _GpuStopwatch(parameter.device)
            self._hooks.append(model.register_forward_hook(self._forward_done))

    def close(self) -> None:
        """Measure no longer."""
        for hook in self._hooks:
            hook.remove()

    def _forward_done(self, *_: object) -> None:
        self._forward.stop()

    def begin(self) -> None:
        """Say that the first step begins."""
        self._began = self._left = self._clock()
        self._forward.start()

    def arrived(self) -> None:
        """Say that this rank has done its step and waits for the agreement."""
        self._arrived = self._clock()

    def agreed(self) -> None:
        """Say that the agreement is over: the next step begins."""
        now = self._clock()
        self._steps.append(Times(self._forward.read(), self._arrived - self._left, now - self._left))
        self._left = now
        self._forward.start()

    def due(self) -> bool:
        """Whether the window is long enough to compare; one rank decides for all."""
        return len(self._steps) >= WINDOW_STEPS and self._clock() - self._began >= WINDOW_SECONDS

    def compare(self) -> None:
        """Compare the ranks; to be called on all of them after the same step."""
        mine = [statistics.median(values) for values in zip(*self._steps, strict=True)]
        own = torch.tensor(mine, dtype=torch.float32, device=self._device)
        everybody = [torch.empty_like(own) for _ in range(self._world_size)]
        dist.all_gather(everybody, own)
        self.judge([Times(*rank.tolist()) for rank in everybody])
        self._steps.clear()
        self._began = self._clock()

    def judge(self, ranks: Sequence[Times]) -> None:
        """Take note of a window: who is late in WINDOWS of them in a row is named, and who is in none no longer."""
        self._verdicts.append(straggler(ranks))
        blamed = {verdict.rank if verdict else None for verdict in self._verdicts}
        if len(self._verdicts) == WINDOWS and len(blamed) == 1:
            self.found = self._verdicts[-1]
        elif self.found is not None and self.found.rank not in blamed:
            self.found = None


class _Stopwatch:
    """The time from the beginning of a step to the end of its first forward pass."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = 0.0
        self._seconds: float | None = None

    def start(self) -> None:
        self._began = self._clock()
        self._seconds = None

    def stop(self) -> None:
        if self._seconds is None:
            self._seconds = self._clock() - self._began

    def read(self) -> float:
        """Return the seconds; 0 if there was no forward pass."""
        return self._seconds or 0.0


class _GpuStopwatch(_Stopwatch):
    """The same by the GPU's clock: what the stream was busy with, or waited for, until the pass was through.

    It is asked only for what is through anyway; a step whose figure is not there yet counts like the one before.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(time.monotonic)
        self._device = device
        self._first, self._last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._state = "idle"
        self._newest = 0.0

    def start(self) -> None:
        if self._state != "stopped":
            self._first.record(torch.cuda.current_stream(self._device))
            self._state = "runs"

    def stop(self) -> None:
        if self._state == "runs":
            self._last.record(torch.cuda.current_stream(self._device))
            self._state = "stopped"

    def read(self) -> float:
        if self._state == "stopped" and self._last.query():  # type: ignore[no-untyped-call]
            self._newest = self._first.elapsed_time(self._last) / 1000
            self._state = "idle"
        return self._newest
