"""What a decision says: the actions to take, the status to write, the events to tell, when to look again."""

from dataclasses import dataclass, field

from torchrun_operator.api.v1alpha1 import TorchrunJobStatus
from torchrun_operator.core.membership import Target


@dataclass(frozen=True)
class Deletion:
    """Delete that very pod (uid); grace_seconds None: its own grace period."""

    name: str
    uid: str
    why: str
    grace_seconds: int | None = None


@dataclass(frozen=True)
class Event:
    """A core/v1 event on the job."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Decision:
    """The outcome of one pure decision. The status is written first: it counts what the actions then wipe out."""

    status: TorchrunJobStatus
    apply_objects: bool = False
    """What pods mount."""
    apply_services: bool = False
    create_rendezvous: bool = False
    create_nodes: tuple[int, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    target: Target | None = None
    """None: nothing to tell the rendezvous host."""
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None
    losses: dict[str, int] = field(default_factory=dict)
    """New restarts by cause, for the metrics."""
    logs_to_read: tuple[str, ...] = ()
    """Pods whose logs tell why what is counted here failed: with them in the picture, the decision says it."""
    hung: bool = False
    """One of them because the workers hung."""
