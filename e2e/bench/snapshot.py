"""Measures for how long a snapshot of 1 GB keeps the training waiting, against torch.save of the same state.

Both are measured in turns, in one process and on one disk. Of each the least counts, since whatever else the machine
does only adds to it; medians are printed too. The first snapshot, which has to get its memory, is told apart. Exits
with 1 if the ratio is above the bar.
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
from typing import Any

import torch

from torchrun_trainer.saver import Saver

_BAR = 0.15
_TENSORS = 64


class _State:
    def __init__(self, size: int) -> None:
        self.tensors = {str(number): torch.rand(size // _TENSORS // 4) for number in range(_TENSORS)}

    def state_dict(self) -> dict[str, Any]:
        return self.tensors

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensors = state


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _save(state: _State, path: Path) -> None:
    """Do what a plain script does."""
    torch.save({"model": state.state_dict()}, path)


def measure(directory: Path, size: int, rounds: int) -> dict[str, float]:
    """Return seconds: of torch.save, of being kept waiting, at first and later, and until the snapshot was complete."""
    state = _State(size)
    saver = Saver(directory / "snapshots", {"model": state}, keep=1)
    plain, blocked, complete = [], [], []
    for step in range(1, rounds + 2):
        plain.append(_seconds(lambda: _save(state, directory / "plain.pt")))
        os.sync()  # what one has left to the kernel is not to slow down the other
        began = time.monotonic()
        saver.save(step, wait=False)
        assert saver.blocked is not None
        blocked.append(saver.blocked)
        saver.finish()
        saver.look()
        complete.append(time.monotonic() - began)
        os.sync()
    saver.close()
    return {
        "torch.save": min(plain),
        "first": blocked[0],
        "blocked": min(blocked[1:]),
        "complete": min(complete),
        "torch.save, median": statistics.median(plain),
        "blocked, median": statistics.median(blocked[1:]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to write (default: that of temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        seconds = measure(Path(directory), options.megabytes * 10**6, options.rounds)
    ratio, first = (seconds[name] / seconds["torch.save"] for name in ("blocked", "first"))
    figures = {**{name: round(value, 4) for name, value in seconds.items()}, "ratio": round(ratio, 4)}
    print(json.dumps(figures))
    print(f"A snapshot of {options.megabytes} MB keeps the training waiting for {ratio:.1%} of a torch.save's time")
    print(f"(the first one, which has to get its memory, for {first:.1%}); at most {_BAR:.0%} are allowed.")
    sys.exit(ratio > _BAR)


if __name__ == "__main__":
    main()
