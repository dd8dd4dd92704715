"""A script for the tests whose ranks do the same, except one that takes twice as long somewhere."""

import sys
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchrun_trainer import Run, defer_compiler
from torchrun_trainer.watch import straggler

WORK_SECONDS = 0.02


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 1)
        self.delay = 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.delay)
        result: Tensor = self.layer(inputs)
        return result


def main(where: str, slow: int, steps: int) -> None:
    torch.set_num_threads(1)
    defer_compiler()
    straggler.WINDOW_SECONDS = 0.0  # a window of 20 steps
    dist.init_process_group("gloo")
    delays = {where: WORK_SECONDS} if dist.get_rank() == slow else {}
    plain = Model()
    plain.delay = delays.get("forward", 0.0)
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = Run("", report_seconds=0.2, model=model, optimizer=optimizer)
    for _ in run.steps(steps):
        time.sleep(WORK_SECONDS + delays.get("data", 0.0))
        loss = model(torch.ones(4, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(delays.get("after", 0.0))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
