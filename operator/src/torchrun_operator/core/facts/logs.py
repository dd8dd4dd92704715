"""Which logs a pass reads: those of failed pods that the status does not record as failed yet.

The findings need fewer logs: they decide later which failures count, and with which cause.
"""

from datetime import timedelta

from torchrun_operator.core.facts.model import LIVE, Facts, Phase

SETTLE = timedelta(seconds=3)
"""How long a failure of workers waits for news of a lost node that would explain it."""
KILLED = frozenset({128 + 9, 128 + 15})
"""Exit codes of SIGKILL and SIGTERM: a signal from outside ended the container, so the log does not show the reason."""
_MOST_LOGS = 8
"""The first node that leaves is not always the first that failed, so a pass reads more than one log."""


def logs_to_read(facts: Facts) -> tuple[str, ...]:
    """Return the names of the pods whose logs may describe new failures, the most useful ones first."""
    return tuple(dict.fromkeys([*_of_workers(facts), *_of_pods(facts)]))[:_MOST_LOGS]


def _of_pods(facts: Facts) -> list[str]:
    counted = {node.uid for node in facts.job.status.nodes if node.phase not in LIVE}
    return [
        node.name
        for node in facts.nodes
        if node.phase is Phase.FAILED
        and node.uid not in counted
        and node.exit is not None
        and node.exit.code not in KILLED
        and not node.disruption
    ]


def _of_workers(facts: Facts) -> list[str]:
    """Return the members of a round that ended because workers failed, once this pass may count that failure."""
    rendezvous, recorded = facts.rendezvous, facts.job.status.rendezvous
    if rendezvous is None or rendezvous.last_unrequested is None:
        return []
    counted = recorded.unrequested if recorded.instance == rendezvous.instance else 0
    settled = facts.now >= rendezvous.last_unrequested.time + SETTLE
    if rendezvous.rounds_ended.unrequested <= counted or not settled:
        return []
    members = [node for node in facts.job.status.nodes if node.rank is not None]
    first = [node.pod for node in members if node.address in rendezvous.last_unrequested.addresses]
    return [*first, *(node.pod for node in members)]
