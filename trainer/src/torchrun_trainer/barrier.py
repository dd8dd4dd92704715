"""Barrier: holds the nodes or the ranks of a job until all of them have arrived. Imports no torch."""

import sys

from torchrun_trainer.launch.barrier import BarrierError, BarrierTimeoutError, barrier, rank_barrier
from torchrun_trainer.launch.barrier_command import main

__all__ = ["BarrierError", "BarrierTimeoutError", "barrier", "main", "rank_barrier"]

if __name__ == "__main__":
    sys.exit(main())
