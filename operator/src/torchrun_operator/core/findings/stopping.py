"""Nodes that are slow to stop: the others wait for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.core.facts.model import Facts, Phase, Stage
from torchrun_operator.core.findings.wanted import Wanted

PATIENCE = timedelta(seconds=10)
"""A script that handles SIGTERM saves a snapshot and ends within this time."""
_TORCHRUN_GRACE = 30
"""Seconds from SIGTERM to SIGKILL of workers, which torchrun does not let users set (torch.distributed.elastic's
default timeout of PContext.close)."""


@dataclass(frozen=True)
class Stopping:
    """The nodes that have not stopped a while after SIGTERM."""

    slow: tuple[str, ...] = ()
    """A phrase for each of them, for people."""
    later: tuple[datetime, ...] = ()
    """When others become slow."""


def stopping(facts: Facts, wanted: Wanted) -> Stopping:
    """Return the nodes that are slow to stop: pods that terminate, and members whose agents stop their workers.

    Surplus pods are no concern: no node waits for them. A suspended job waits for all its pods.
    """
    requests = [*_pods(facts, wanted), *_workers(facts)]
    return Stopping(
        slow=tuple(words for since, words in requests if since + PATIENCE <= facts.now),
        later=tuple(since + PATIENCE for since, _ in requests if since + PATIENCE > facts.now),
    )


def _pods(facts: Facts, wanted: Wanted) -> Iterable[tuple[datetime, str]]:
    suspended = facts.stage is Stage.SUSPENDED
    for node in facts.nodes:
        if node.phase is not Phase.TERMINATING or node.stop_requested_at is None or node.exit is not None:
            continue
        if suspended or node.index < wanted.pods:
            then = "the pod keeps its resources" if suspended else "its replacement waits"
            killed = f"the kubelet kills it {node.grace_seconds} s after SIGTERM (terminationGracePeriodSeconds)"
            words = f"pod {node.name} has not ended {PATIENCE.seconds} s after SIGTERM; {killed}, and {then} until then"
            yield node.stop_requested_at, words


def _workers(facts: Facts) -> Iterable[tuple[datetime, str]]:
    """Return the members of the last round that have not joined the next one. Their agents stop the workers first."""
    rendezvous, change = facts.rendezvous, facts.job.status.membership.last_change
    if rendezvous is None or rendezvous.complete or rendezvous.closed or not rendezvous.round or change is None:
        return
    there = {member.address for member in rendezvous.members}
    there |= {*rendezvous.waiting, *(rendezvous.silent or ()), *rendezvous.missing}
    trained = {node.uid for node in facts.job.status.nodes if node.rank is not None}
    killed = f"torchrun kills them {_TORCHRUN_GRACE} s after SIGTERM"
    for node in facts.nodes:
        if node.phase is Phase.RUNNING and node.uid in trained and node.address not in there:
            who = f"the workers of pod {node.name} have not ended {PATIENCE.seconds} s after SIGTERM"
            yield change.time, f"{who}; {killed}, and the other nodes wait until then"
