"""Members: the workers of all replica groups in the quorum, seen from one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchrun_trainer.launch.ranks import Ranks


class Members(Ranks):
    """Ranks that change from step to step. Every exchange reaches only the workers of the own replica group.

    ``rank`` and ``size`` count the workers of all groups. Before the first quorum they are those of the own group.
    """

    def __init__(self, group: Ranks) -> None:
        self.group = group
        self.device = group.device
        self.rank, self.size, self.reached = group.rank, group.size, group.size

    def place(self, group_rank: int, groups: int) -> None:
        """Note that the own group is this one of so many."""
        self.rank = group_rank * self.group.size + self.group.rank
        self.size = groups * self.group.size

    @property
    def leads(self) -> bool:
        """Whether the own group is the first."""
        return self.rank < self.group.size

    def on_rank_0(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run ``action`` on the first rank of the group; return its result, or raise its exception, on all of them."""
        return self.group.on_rank_0(action)

    def values(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of the ranks of the group."""
        return self.group.values(value)

    def values_on_rank_0(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of the ranks of the group on its first one."""
        return self.group.values_on_rank_0(value)

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number in the group."""
        return self.group.largest(numbers)

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number in the group."""
        return self.group.sums(numbers)
