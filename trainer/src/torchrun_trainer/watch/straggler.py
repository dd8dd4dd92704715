"""Stragglers: the ranks find out which of them all others wait for.

All ranks leave the agreement that ends a step at the same moment. Each then works by itself until it first waits for
the others, in DistributedDataParallel's backward pass. So the time to the end of the forward pass (loading data,
computing) is a rank's own work. On a GPU it is measured there, since the CPU only queues the work. After the last
collective of the step the ranks again work by themselves until they arrive at the agreement: a rank that arrives after
the others was slower there. The time inside collectives is the same for all and shows nothing.
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
"""So many windows in a row must blame the same rank, and clear it."""
SHARE = 0.15
LEAST_SECONDS = 0.005
"""Ranks always differ by less than this: rank 0 writes the progress."""
_MOST_STEPS = 1024


class Times(NamedTuple):
    """Medians over the steps of a window, in seconds from the start of a step to the end of its forward pass, to the
    arrival at the agreement, and to the end of the step.
    """

    forward: float
    arrival: float
    step: float


@dataclass(frozen=True)
class Straggler:
    """The rank that all others wait for, for ``lag_seconds`` of the ``step_seconds`` that each step takes."""

    rank: int
    lag_seconds: float
    step_seconds: float


def straggler(ranks: Sequence[Times]) -> Straggler | None:
    """Return the rank that is late by more than SHARE of a step, compared with the median of all others.

    A rank that is late in the forward pass delays all ranks alike afterwards, unless none of them waits in between. So
    its lag is the larger of the two, not their sum.
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
    """Return how far each value lies above the median of all others."""
    ordered, middle = sorted(values), len(values) - 2

    def other(position: int, without: int) -> float:
        return ordered[position if position < without else position + 1]

    positions = [bisect_left(ordered, value) for value in values]
    medians = [(other(middle // 2, own) + other((middle + 1) // 2, own)) / 2 for own in positions]
    return [value - median for value, median in zip(values, medians, strict=True)]


class Stragglers:
    """Measures the steps of this rank and compares the ranks from time to time. ``found`` is the same on all ranks.

    A step costs a few readings of the clock, a comparison one ``all_gather`` of three numbers.
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
        """Measure the forward passes of this model as the work before the first collective."""
        parameter = next(model.parameters(), None)
        if isinstance(model, DistributedDataParallel) and parameter is not None:
            if parameter.is_cuda:
                self._forward = _GpuStopwatch(parameter.device)
            self._hooks.append(model.register_forward_hook(self._forward_done))

    def close(self) -> None:
        """Stop measuring."""
        for hook in self._hooks:
            hook.remove()

    def _forward_done(self, *_: object) -> None:
        self._forward.stop()

    def begin(self) -> None:
        """Note that the first step begins."""
        self._began = self._left = self._clock()
        self._forward.start()

    def arrived(self) -> None:
        """Note that this rank has done its step and waits for the agreement."""
        self._arrived = self._clock()

    def agreed(self) -> None:
        """Note that the agreement is over and the next step begins."""
        now = self._clock()
        self._steps.append(Times(self._forward.read(), self._arrived - self._left, now - self._left))
        self._left = now
        self._forward.start()

    def due(self) -> bool:
        """Return whether the window is long enough to compare. One rank decides for all."""
        return len(self._steps) >= WINDOW_STEPS and self._clock() - self._began >= WINDOW_SECONDS

    def compare(self) -> None:
        """Compare the ranks. Call it on all of them after the same step."""
        mine = [statistics.median(values) for values in zip(*self._steps, strict=True)]
        own = torch.tensor(mine, dtype=torch.float32, device=self._device)
        everybody = [torch.empty_like(own) for _ in range(self._world_size)]
        dist.all_gather(everybody, own)
        self.judge([Times(*rank.tolist()) for rank in everybody])
        self._steps.clear()
        self._began = self._clock()

    def judge(self, ranks: Sequence[Times]) -> None:
        """Add the verdict of a window: WINDOWS in a row name a rank, and WINDOWS without it clear it."""
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
    """The same by the GPU's clock: the time that the stream worked or waited until the pass was finished.

    It never waits for the GPU: a step whose time is not known yet counts like the one before.
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
