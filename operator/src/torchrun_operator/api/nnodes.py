"""``spec.nnodes`` and ``spec.nprocPerNode``: the number of nodes, N or MIN:MAX, and of workers per node."""

import re
from typing import Final, Literal, NamedTuple

from torchrun_operator.api.names import MAX_NODES, MAX_PROCESSES_PER_NODE

_FORM: Final = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}))?")


class NodeRange(NamedTuple):
    """The minimum and maximum number of nodes of a job."""

    min: int
    max: int

    def __str__(self) -> str:
        """Format the range as torchrun does."""
        return f"{self.min}:{self.max}"


def parse_nnodes(nnodes: object) -> NodeRange:
    """Read N or MIN:MAX. Raises ValueError with the fix."""
    match = None if isinstance(nnodes, bool) else _FORM.fullmatch(str(nnodes))
    if match is None:
        raise ValueError('write a number of nodes such as 4, or "MIN:MAX" such as "2:4"')
    low = int(match[1])
    high = low if match[2] is None else int(match[2])
    if low > high:
        raise ValueError(f'MIN is greater than MAX; write "{high}:{low}"')
    if low < 1:
        raise ValueError("MIN must be at least 1; to stop the job, set spec.suspend to true")
    if high > MAX_NODES:
        raise ValueError(f"MAX must be at most {MAX_NODES}, the maximum number of nodes of a job")
    return NodeRange(low, high)


def parse_nproc_per_node(nproc: object) -> int | Literal["auto", "cpu", "gpu"]:
    """Read a number of workers, or gpu, cpu, auto. Raises ValueError with the fix."""
    match nproc:
        case "auto" | "cpu" | "gpu":
            return nproc
        case int() | str() if not isinstance(nproc, bool) and _FORM.fullmatch(str(nproc)):
            number = int(nproc) if ":" not in str(nproc) else 0
            if 1 <= number <= MAX_PROCESSES_PER_NODE:
                return number
    raise ValueError(f"write a number from 1 to {MAX_PROCESSES_PER_NODE}, or one of gpu, cpu, auto")
