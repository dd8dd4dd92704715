"""Stacks: ``python -m torchrun_trainer.stacks`` makes the workers of this node write where they stand."""

import sys

from torchrun_trainer.watch.stacks import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
