"""Kills a process that takes snapshots beside its training, at random moments, and checks what it leaves.

Processes are forked, so that PyTorch is loaded once. Prints how many kills hit while a snapshot was being written.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchrun_trainer import snapshot
from torchrun_trainer.snapshots.saver import Saver

VALUES = 200_000


class Weights:
    """All values are the number of steps done."""

    def __init__(self) -> None:
        self.values = torch.zeros(VALUES)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = state["values"]


def train(directory: Path, announce: int) -> None:
    """Train until killed; announce the step of each snapshot once it is complete."""
    weights = Weights()
    saver = Saver(directory, {"weights": weights})
    step, told = saver.restore(), None
    assert weights.values.eq(step).all(), "what was restored is not of one step"
    saver.begin()
    while True:
        step += 1
        weights.values += 1
        saver.step_done(step, due=True, wait=False)
        if saver.newest and saver.newest != told:
            told = saver.newest
            os.write(announce, f"{told.step}\n".encode())


def kill_once(directory: Path, chance: random.Random) -> None:
    """Let a process train, kill it, and check that the newest announced snapshot, or a newer one, is good."""
    listen, announce = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(directory, announce)
        finally:
            os._exit(1)
    os.close(announce)
    said = os.read(listen, 1 << 16)  # until the first one is complete
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    while more := os.read(listen, 1 << 16):
        said += more
    os.close(listen)
    assert code == -signal.SIGKILL, code
    announced = int(said.split()[-1])
    newest = snapshot.newest(directory)
    assert newest, "no snapshot"
    assert newest.step >= announced, (newest.step, announced)
    document = snapshot.load(newest)
    assert document["step"] == newest.step
    assert document["state"]["weights"]["values"].eq(newest.step).all(), "what was saved is not of one step"


def main(directory: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    halfway = 0
    for _ in range(kills):
        kill_once(directory, chance)
        halfway += bool(list(directory.glob(".snapshot-*.tmp")))
    assert not list(directory.glob("*.corrupt"))
    sys.stdout.write(f"{halfway}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
