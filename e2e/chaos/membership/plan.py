"""The plan of faults, drawn from a seed: kinds, pauses, victims, sizes. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from chaos.membership.records import MAX, MIN


class Kind(StrEnum):
    """The kinds of faults."""

    SCALE = "scale"
    KILL_NODE = "kill-node"
    """SIGKILL to all processes of a node pod."""
    DELETE = "delete"
    """Deletes a node pod with grace."""
    DELETE_NOW = "delete-now"
    """Deletes a node pod without grace."""
    EVICT = "evict"
    TERMINATE_WORKER = "terminate-worker"
    """SIGTERM to one worker process."""
    KILL_WORKER = "kill-worker"
    """SIGKILL to one worker process."""
    CORDON = "cordon"
    """A Kubernetes node takes no new pods for a while."""
    KILL_HOST = "kill-host"
    """SIGKILL to the processes of the rendezvous pod."""
    DELETE_HOST = "delete-host"
    """Deletes the rendezvous pod without grace."""
    KILL_OPERATOR = "kill-operator"
    DELETE_OPERATOR = "delete-operator"
    """Deletes the pod of the operator without grace."""
    STOP_MACHINE = "stop-machine"
    """A Kubernetes node has no power for a while."""
    PARTITION = "partition"
    """A Kubernetes node has no network for a while."""


_WEIGHTS = {
    Kind.SCALE: 6,
    Kind.KILL_NODE: 4,
    Kind.DELETE: 3,
    Kind.DELETE_NOW: 3,
    Kind.EVICT: 3,
    Kind.TERMINATE_WORKER: 2,
    Kind.KILL_WORKER: 2,
    Kind.CORDON: 2,
    Kind.KILL_HOST: 1,
    Kind.DELETE_HOST: 1,
    Kind.KILL_OPERATOR: 2,
    Kind.DELETE_OPERATOR: 2,
    Kind.STOP_MACHINE: 1,
    Kind.PARTITION: 1,
}
PLANNED = frozenset({Kind.SCALE, Kind.DELETE, Kind.EVICT, Kind.TERMINATE_WORKER, Kind.CORDON})
"""Changes that are announced to the workers. They must lose no step."""
HARMLESS = frozenset({Kind.CORDON, Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR})
"""Faults that do not affect training."""
OF_WORKERS = frozenset({Kind.TERMINATE_WORKER, Kind.KILL_WORKER})
OF_PODS = frozenset({Kind.KILL_NODE, Kind.DELETE, Kind.DELETE_NOW, Kind.EVICT})
OF_HOST = frozenset({Kind.KILL_HOST, Kind.DELETE_HOST})
OF_MACHINES = frozenset({Kind.STOP_MACHINE, Kind.PARTITION})


@dataclass(frozen=True)
class Planned:
    """The next fault."""

    kind: Kind
    settled: bool
    """Whether to wait first until the job trains at its size."""
    pause: float
    """Seconds to wait then."""
    victim: float
    """The victim, from 0 to 1."""
    nodes: int
    """Size to scale to."""
    seconds: float
    """Seconds for which a Kubernetes node has the fault."""


def planned(seed: int) -> Iterator[Planned]:
    """Yield faults without end; the same ones for the same seed."""
    chance = random.Random(seed)
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    while True:
        kind = chance.choices(kinds, weights)[0]
        spacing = chance.random()
        yield Planned(
            kind=kind,
            settled=spacing >= 0.85,
            pause=chance.uniform(0.0, 0.8) if not 0.45 <= spacing < 0.85 else chance.uniform(0.8, 8.0),
            victim=chance.random(),
            nodes=chance.randint(MIN, MAX),
            seconds=chance.uniform(3.0, 45.0),
        )
