"""The plan of faults, drawn from a seed: kinds, pauses, victims, sizes. Pure."""

import random
from collections.abc import Iterable, Iterator
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
    FAIL_AT_ONCE = "fail-at-once"
    """SIGKILL to the workers of a node. The next rounds fail too, right after their start."""
    KILL_SIDECAR = "kill-sidecar"
    """SIGKILL to the native sidecar of a node pod. The kubelet restarts it, later each time."""
    QUOTA = "quota"
    """A quota refuses new pods for a while."""
    DELETE_SECRET = "delete-secret"
    """A Secret that the node pods mount is gone for a while."""
    DELETE_CLAIM = "delete-claim"
    """A volume claim that the node pods mount is gone for a while."""
    SILENT_KUBELET = "silent-kubelet"
    """A kubelet stops for a while, and the operator is killed meanwhile. The pods continue."""
    SILENT_HALF = "silent-half"
    """The kubelets of half of the Kubernetes nodes stop for a while. Their pods continue."""
    STUCK = "stuck"
    """Deletes a node pod with grace; a finalizer keeps the pod for a while."""
    FREEZE_OPERATOR = "freeze-operator"
    """The operator does not run for a while, and its clocks jump, as in a virtual machine that is suspended."""
    FREEZE_HOST = "freeze-host"
    """The rendezvous host does not run for a while, and its clocks jump."""
    HOSTILE = "hostile"
    """The rendezvous host of another job answers at once, without end and with megabytes, for a while."""


_WEIGHTS = dict.fromkeys(Kind, 2) | {
    Kind.SCALE: 8,
    Kind.KILL_NODE: 5,
    Kind.DELETE: 4,
    Kind.DELETE_NOW: 4,
    Kind.EVICT: 4,
    Kind.TERMINATE_WORKER: 3,
    Kind.KILL_WORKER: 3,
}
PLANNED = frozenset({Kind.SCALE, Kind.DELETE, Kind.EVICT, Kind.TERMINATE_WORKER, Kind.CORDON, Kind.STUCK})
"""Changes that are announced to the workers. They must lose no step."""
OF_NEW_PODS = frozenset({Kind.QUOTA, Kind.DELETE_SECRET, Kind.DELETE_CLAIM})
"""Faults that keep new pods from starting."""
OF_KUBELETS = frozenset({Kind.SILENT_KUBELET, Kind.SILENT_HALF})
HARMLESS = frozenset(
    {
        Kind.CORDON,
        Kind.KILL_OPERATOR,
        Kind.DELETE_OPERATOR,
        Kind.KILL_SIDECAR,
        Kind.FREEZE_OPERATOR,
        Kind.HOSTILE,
        *OF_NEW_PODS,
        *OF_KUBELETS,
    }
)
"""Faults that do not affect training."""
OF_WORKERS = frozenset({Kind.TERMINATE_WORKER, Kind.KILL_WORKER})
OF_PODS = frozenset({Kind.KILL_NODE, Kind.DELETE, Kind.DELETE_NOW, Kind.EVICT, Kind.STUCK})
OF_HOST = frozenset({Kind.KILL_HOST, Kind.DELETE_HOST, Kind.FREEZE_HOST})
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
    """Seconds for which the fault lasts, if it is repaired later."""


def planned(seed: int, kinds: Iterable[Kind] = tuple(Kind)) -> Iterator[Planned]:
    """Yield faults of these kinds without end; the same ones for the same seed and kinds."""
    chance = random.Random(seed)
    kinds = list(kinds)
    weights = [_WEIGHTS[kind] for kind in kinds]
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
