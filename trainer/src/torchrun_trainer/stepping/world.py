"""World: who takes the next step, and whether it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torchrun_trainer.launch.ranks import Ranks


class World(Protocol):
    """The workers that take a step together. Every method is a collective.

    ``joins_late``: ``begin`` may return more steps than it was given, as others have done them.
    """

    joins_late: bool

    @property
    def ranks(self) -> Ranks:
        """The workers of the present step."""

    def begin(self, step: int, wait: Callable[[], None]) -> int:
        """Wait until the next step can begin, calling ``wait`` from time to time; return the number of steps done."""

    def committed(self) -> bool:
        """Return whether the step that was just done counts. Otherwise it is done again."""

    def close(self) -> None:
        """Leave the others, which go on."""


class FixedWorld:
    """The world of a process group, which stays as it is until all workers start again."""

    joins_late = False

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def begin(self, step: int, wait: Callable[[], None]) -> int:
        """Return the number of steps done: the next step can always begin."""
        del wait
        return step

    def committed(self) -> bool:
        """Return that each step counts: if it cannot be done, all workers start again."""
        return True

    def close(self) -> None:
        """Do nothing: the workers leave together."""
