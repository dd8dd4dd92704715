"""The addresses of the job: the rendezvous host, and the names of services."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from torchrun_operator.core.facts.model import Facts, NodePod, Phase, RendezvousPod

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_AGENT_START = timedelta(seconds=3)
"""An agent imports torch before it looks for the rendezvous."""


@dataclass(frozen=True)
class Reach:
    """What can be reached, and from which time."""

    host: str | None
    """The address of the rendezvous host, if the operator may talk to it."""
    services_due: datetime | None
    """When the job's services should exist. None: no pod needs them yet."""


def reach(facts: Facts) -> Reach:
    """Return what can be reached."""
    return Reach(reachable_host(facts), services_due(facts))


def services_due(facts: Facts) -> datetime | None:
    """Return when the job's services should exist. None: no pod needs them yet.

    Kubernetes writes the endpoints of a service whenever one of its pods gets an address. If the service is created
    after all pods have addresses, that happens once. A pod that starts slowly delays the services by seconds.
    """
    pods: list[NodePod | RendezvousPod] = [*facts.nodes]
    if facts.rendezvous_pod is not None:
        pods.append(facts.rendezvous_pod)
    if pods and all(pod.address for pod in pods):
        return _LONG_AGO
    return min((pod.started_at + _AGENT_START for pod in pods if pod.started_at is not None), default=None)


def reachable_host(facts: Facts) -> str | None:
    """Return the address of the rendezvous host that the operator may talk to, if there is one."""
    pod = facts.rendezvous_pod
    up = pod is not None and pod.phase is Phase.RUNNING and pod.token_digest == facts.token_digest
    return pod.address if pod is not None and up else None
