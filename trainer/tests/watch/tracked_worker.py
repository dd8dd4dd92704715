"""A tracked script for the tests that can die at a given step without a word."""

import os
import sys
import time
from pathlib import Path

import torch

from torchrun_trainer import Run


def main(directory: str, total_steps: int, die_at: int, track: str) -> None:
    model = torch.nn.Linear(1, 1)
    run = Run(directory, snapshot_every=5, report_seconds=0.0, track=track, model=model)
    for step in run.steps(total_steps):
        run.report(loss=100.0 + step, samples=4, epoch=step // 10, attempt=torch.tensor(die_at))
        if step == die_at:
            for tracker in run._trackers:
                tracker.flush(60)
            last = str(100.0 + step - 1).removesuffix(".0").encode()
            files = list(Path(directory).glob("wandb/*/*.wandb"))
            while not all(last in file.read_bytes() for file in files):
                time.sleep(0.01)
            os._exit(9)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
