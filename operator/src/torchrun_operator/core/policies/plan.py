"""The plan of a pass. Actions are values; `reconcile.act` carries them out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrun_operator.api.lead import LeadPod
from torchrun_operator.core.facts.model import NodePod, Phase, RendezvousPod
from torchrun_rendezvous.protocol import Target


@dataclass(frozen=True)
class Deletion:
    """Delete the pod with this uid. ``grace_seconds`` None: its own grace period."""

    name: str
    uid: str
    why: str
    grace_seconds: int | None = None
    surplus: bool = False
    """The pod is surplus."""


@dataclass(frozen=True)
class Stop:
    """End the containers of the pod with this uid, with its grace period. The pod stays, with its logs."""

    name: str
    uid: str


@dataclass(frozen=True)
class Upload:
    """Create the pod that uploads the outputs at these positions of the spec."""

    positions: tuple[int, ...]
    digest: str
    periodic: bool


@dataclass(frozen=True)
class Plan:
    """The plan for a job. The status is written first: it counts pods that these actions delete."""

    apply_objects: bool = False
    """Apply the objects that pods mount."""
    apply_services: bool = False
    create_rendezvous: bool = False
    create_nodes: tuple[int, ...] = ()
    """Indices."""
    names: Mapping[int, str] = field(default_factory=dict)
    """The names of those of them whose usual name a former pod still has."""
    lead: LeadPod | None = None
    """The lead that they start with, if they are nodes of a static job other than the lead."""
    deletions: tuple[Deletion, ...] = ()
    stops: tuple[Stop, ...] = ()
    restart_all: str = ""
    """Why all nodes start again, for people. Empty: they do not."""
    upload: Upload | None = None
    """Create the pod that uploads. None: not now."""
    target: Target | None = None
    """The target of the rendezvous host. None: send nothing."""
    delete_job: bool = False
    """The job ended long ago."""
    look_again_seconds: float | None = None


def deletion(node: NodePod, why: str) -> Deletion:
    """Delete a node's pod: a live one with its own grace period, one that has ended or is lost at once."""
    if node.live or node.phase is Phase.TERMINATING:
        return Deletion(node.name, node.uid, why)
    return Deletion(node.name, node.uid, why, 1 if node.lingers else 0)


def host_deletion(pod: RendezvousPod | None, why: str) -> tuple[Deletion, ...]:
    """Delete the rendezvous pod, unless it does not exist or is already terminating."""
    if pod is None or pod.phase is Phase.TERMINATING:
        return ()
    return (Deletion(pod.name, pod.uid, why, 0 if pod.phase is Phase.LOST else None),)
