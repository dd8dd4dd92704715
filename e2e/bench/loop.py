"""Measures the cost per step of run.steps, and of run.batches over a loader, in one process, against plain loops.

Both sides are measured in turn, several times; the result is the difference of the medians. Exits with 1 if a step of
``run.steps`` costs more than 50 microseconds.
"""

import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches, Run

_STEPS = 5_000
_TIMES = 9
_BATCH = 32
_MOST_MICROSECONDS = 50.0


def main() -> None:
    """Measure, print the figures as JSON, and check them."""
    torch.set_num_threads(1)
    data = TensorDataset(torch.arange(100_000))
    batches = GlobalBatches(len(data), _BATCH)
    ours = DataLoader(data, batch_sampler=batches.sampler(), collate_fn=len)
    theirs = DataLoader(data, batch_size=_BATCH, shuffle=True, drop_last=True, collate_fn=len)
    steps = _measure(lambda: Run("").steps(_STEPS), lambda: range(_STEPS))
    report = _measure(_reported, lambda: range(_STEPS))
    loader = _measure(
        lambda: Run("", batches=batches).batches(ours, len(theirs)), lambda: iter(theirs), steps=len(theirs)
    )
    figures = {"steps": steps, "stepsAndReport": report, "batchesOverLoader": loader}
    print(json.dumps({"microsecondsPerStep": {name: round(value, 2) for name, value in figures.items()}}))
    if steps > _MOST_MICROSECONDS:
        sys.exit(f"a step of run.steps costs {steps:.1f} us, more than {_MOST_MICROSECONDS:.0f}")


def _reported() -> Iterable[int]:
    run, loss = Run(""), torch.tensor(0.5)
    for step in run.steps(_STEPS):
        run.report(loss=loss, samples=_BATCH, epoch=0)
        yield step


def _measure(
    ours: Callable[[], Iterable[object]], theirs: Callable[[], Iterable[object]], steps: int = _STEPS
) -> float:
    """Return how many microseconds per step the first loop takes longer than the second."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TIMES):
        for loop, seconds in zip((ours, theirs), times, strict=True):
            with contextlib.redirect_stdout(io.StringIO()):
                iterable = loop()
                began = time.perf_counter()
                for _step in iterable:
                    pass
                seconds.append(time.perf_counter() - began)
    return (statistics.median(times[0]) - statistics.median(times[1])) / steps * 1e6


if __name__ == "__main__":
    main()
