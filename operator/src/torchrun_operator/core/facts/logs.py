"""Which logs a pass reads: those of failed pods that the status does not record as failed yet.

The findings need fewer logs: they decide later which failures count, and with which cause.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from torchrun_operator.api.names import TRAINER_CONTAINER
from torchrun_operator.core.facts.exits import by_kubernetes, by_signal
from torchrun_operator.core.facts.model import LIVE, Exit, Facts, Phase, Stage

SETTLE = timedelta(seconds=3)
"""How long a failure of workers waits for news of a lost node that would explain it."""
_MOST_LOGS = 8
"""The first node that leaves is not always the first that failed, so a pass reads more than one log."""


class Log(NamedTuple):
    """The log of a container."""

    pod: str
    container: str = TRAINER_CONTAINER
    ended: bool = False
    """The container has ended."""


def logs_to_read(facts: Facts) -> tuple[Log, ...]:
    """Return the logs that may describe new failures, one of each pod, the most telling ones first.

    Only an active job counts failures.
    """
    if facts.stage is not Stage.ACTIVE:
        return ()
    pods = {log.pod: log for log in _of_pods(facts)[:_MOST_LOGS]}
    workers = {log.pod: pods.get(log.pod, log) for log in _of_workers(facts)[:_MOST_LOGS]}
    return tuple({**workers, **pods}.values())


def failing_since(facts: Facts) -> datetime | None:
    """Return when the operator first saw the failures of workers that it has not counted yet."""
    recorded, rendezvous = facts.job.status.rendezvous, facts.rendezvous
    known = rendezvous is not None and rendezvous.instance == recorded.instance
    return recorded.failing_since if known else None


def settled(facts: Facts) -> bool:
    """Whether failures of workers have waited for news of a lost node. The clock may have been set back meanwhile."""
    since = failing_since(facts)
    return since is not None and not since <= facts.now < since + SETTLE


def _of_pods(facts: Facts) -> list[Log]:
    """Return the pods that have failed since the last status, members first."""
    counted = {node.uid for node in facts.job.status.nodes if node.phase not in LIVE}
    members = {node.uid for node in facts.job.status.nodes if node.rank is not None}
    failed = [
        (node, node.exit)
        for node in facts.nodes
        if node.phase is Phase.FAILED
        and node.uid not in counted
        and node.exit is not None
        and _tells(node.exit)
        and not node.disruption
    ]
    failed.sort(key=lambda found: found[0].uid not in members)
    return [Log(node.name, ended.container or TRAINER_CONTAINER, ended=True) for node, ended in failed]


def _tells(ended: Exit) -> bool:
    """Tell whether the log may say why the container ended."""
    return ended.code >= 0 and not by_kubernetes(ended) and not by_signal(ended)


def _of_workers(facts: Facts) -> list[Log]:
    """Return the members of a round that ended because workers failed, once that failure is about to be counted.

    The members that left first come first.
    """
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None or rendezvous.last_unrequested is None:
        return []
    counted = recorded.unrequested if recorded.instance == rendezvous.instance else 0
    if rendezvous.rounds_ended.unrequested <= counted or not settled(facts):
        return []
    first = rendezvous.last_unrequested.addresses
    members = (node for node in facts.job.status.nodes if node.rank is not None)
    return [Log(node.pod) for node in sorted(members, key=lambda node: node.address not in first)]
