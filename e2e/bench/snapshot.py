"""Measures how long a snapshot of 1 GB delays training, compared with torch.save of the same state.

The state is that of a model and its AdamW, in CPU memory. torch.save, a step with a snapshot and a step without one run
in turn, in one process and on one disk; medians count. The first snapshot, which allocates its memory, is separate.
Exits with 1 if the ratio is above the bar.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from torchrun_trainer.snapshots.copier import Stateful
from torchrun_trainer.snapshots.saver import Saver

_BAR = 0.15
_LAYERS = 20
_COPIES = 3
"""AdamW keeps two averages of each parameter."""


class _Training:
    """A model of that many bytes, including its averages. Each step computes and changes all of it."""

    def __init__(self, size: int) -> None:
        side = int((size / _COPIES / 4 / _LAYERS) ** 0.5)
        self.model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(_LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._batch = torch.rand(64, side)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self._batch).square().mean().backward()
        self.optimizer.step()

    @property
    def gigabytes(self) -> float:
        return sum(parameter.nbytes for parameter in self.model.parameters()) * _COPIES / 1e9


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def measure(directory: Path, size: int, rounds: int) -> dict[str, float]:
    """Return seconds: of torch.save, of the delay, of steps with and without a snapshot, and until it was complete."""
    training = _Training(size)
    training.step()
    state: dict[str, Stateful] = {"model": training.model, "optimizer": training.optimizer}
    saver = Saver(directory / "snapshots", state, keep=1)
    plain, blocked, complete, steps, steps_beside = [], [], [], [], []

    def save() -> None:  # A plain script does this.
        torch.save({name: part.state_dict() for name, part in state.items()}, directory / "plain.pt")

    for step in range(1, rounds + 2):
        plain.append(_seconds(save))
        os.sync()  # Data that one side left to the kernel must not slow down the other.
        steps.append(_seconds(training.step))
        began = time.monotonic()
        saver.save(step, wait=False)
        training.step()
        steps_beside.append(time.monotonic() - began)
        assert saver.blocked is not None
        blocked.append(saver.blocked)
        saver.finish()
        saver.look()
        complete.append(time.monotonic() - began)
        os.sync()
    saver.close()
    later = {"blocked": blocked, "complete": complete, "step": steps, "step with snapshot": steps_beside}
    return {
        "gigabytes": training.gigabytes,
        "torch.save": statistics.median(plain),
        "first": blocked[0],
        **{name: statistics.median(seconds[1:]) for name, seconds in later.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="directory to write to (default: that of temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        seconds = measure(Path(directory), options.megabytes * 10**6, options.rounds)
    ratio, first = (seconds[name] / seconds["torch.save"] for name in ("blocked", "first"))
    longer = (seconds["step with snapshot"] - seconds["step"]) / seconds["torch.save"]
    print(json.dumps({**{name: round(value, 4) for name, value in seconds.items()}, "ratio": round(ratio, 4)}))
    print(f"A snapshot of {seconds['gigabytes']:.2f} GB delays training by {ratio:.1%} of the time of a torch.save")
    print(f"(the first one, which allocates its memory, by {first:.1%}); at most {_BAR:.0%} are allowed.")
    print(f"In total, such a step takes longer than another by {longer:.1%} of that time.")
    sys.exit(ratio > _BAR)


if __name__ == "__main__":
    main()
