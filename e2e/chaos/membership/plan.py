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
    DELETE = "delete"
    DELETE_NOW = "delete-now"
    EVICT = "evict"
    TERMINATE_WORKER = "terminate-worker"
    KILL_WORKER = "kill-worker"
    CORDON = "cordon"
    KILL_HOST = "kill-host"
    DELETE_HOST = "delete-host"
    KILL_OPERATOR = "kill-operator"
    DELETE_OPERATOR = "delete-operator"
    STOP_MACHINE = "stop-machine"
    PARTITION = "partition"


MEANING = {
    Kind.SCALE: "the number of wanted nodes changes",
    Kind.KILL_NODE: "all processes of a node pod are killed (SIGKILL)",
    Kind.DELETE: "a node pod is deleted with grace",
    Kind.DELETE_NOW: "a node pod is deleted without grace",
    Kind.EVICT: "a node pod is evicted",
    Kind.TERMINATE_WORKER: "one worker process gets SIGTERM",
    Kind.KILL_WORKER: "one worker process gets SIGKILL",
    Kind.CORDON: "a machine takes no new pods for a while",
    Kind.KILL_HOST: "the processes of the rendezvous pod are killed",
    Kind.DELETE_HOST: "the rendezvous pod is deleted without grace",
    Kind.KILL_OPERATOR: "the processes of the operator are killed",
    Kind.DELETE_OPERATOR: "the pod of the operator is deleted without grace",
    Kind.STOP_MACHINE: "a machine has no power for a while",
    Kind.PARTITION: "a machine has no network for a while",
}
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
    """Seconds for which a machine has the fault."""


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
