"""The end of a job: it succeeds when every member succeeds, and members that have finished end all scaling.

A member is a node that the status records with a rank: it was in the newest complete round. Nodes that succeed without
any round have trained alone, or not at all.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from torchrun_operator.core.facts.model import GONE, Facts, Phase
from torchrun_operator.core.facts.together import lead_of, own_nodes
from torchrun_operator.core.findings.size import FATAL_WAITS

_NEWS = timedelta(seconds=10)
"""News of a round reach the operator sooner, even after the connection to the rendezvous host broke."""


@dataclass(frozen=True)
class Completion:
    """How close the job is to its end."""

    finishing: bool = False
    """A member has succeeded, or its agent reports so in the rendezvous."""
    complete: bool = False
    """Every member has succeeded, and they are at least MIN."""
    broken: bool = False
    """A member was lost after others had succeeded, or its workers failed: no node can train with it again."""
    rendezvous_spent: bool = False
    """The rendezvous is closed or about to be, and the nodes that closed it are gone: a start needs a new one."""
    no_round_since: datetime | None = None
    """When the operator first saw that nodes have succeeded, none runs, and no round was ever complete."""
    no_round: bool = False
    """That is certain by now."""

    @property
    def decided_at(self) -> datetime | None:
        """When it will be certain that no round was ever complete."""
        return self.no_round_since + _NEWS if self.no_round_since is not None and not self.no_round else None


def completion(facts: Facts, wanted: int) -> Completion:
    """Return how close the job is to its end; ``wanted`` nodes train together."""
    if facts.job.spec.static:
        return _of_static_job(facts, wanted)
    closed = facts.rendezvous is not None and facts.rendezvous.closed
    ending = closed or (facts.rendezvous is not None and facts.rendezvous.finished > 0)
    succeeded = any(node.phase is Phase.SUCCEEDED for node in facts.nodes) or bool(gone_well(facts))
    members = _members(facts, wanted)
    unfinished = facts.rendezvous is not None and bool(facts.rendezvous.unfinished)
    present = [phase for phase in members if phase is not None and phase not in GONE]
    if not (succeeded or (ending and present)):
        return Completion(rendezvous_spent=ending)
    if not _formed(facts):
        return _alone(facts)
    done = len(members) >= facts.job.spec.min_nodes and all(phase is Phase.SUCCEEDED for phase in members)
    complete = done or (facts.job.spec.ends_with_lead and 0 in _succeeded_members(facts))
    lost = unfinished or any(phase is None or phase in GONE for phase in members)
    return Completion(finishing=True, complete=complete, broken=lost and not complete)


def _of_static_job(facts: Facts, wanted: int) -> Completion:
    """Return the completion of a job without a rendezvous host: only the pods of the round count."""
    gone = gone_well(facts)
    done = {node.index for node in own_nodes(facts, lead_of(facts)) if node.phase is Phase.SUCCEEDED}
    done |= {node.index for node in facts.job.status.nodes if node.uid in gone}
    needed = {0} if facts.job.spec.ends_with_lead else {*range(wanted)}
    return Completion(finishing=bool(done), complete=needed <= done)


def _succeeded_members(facts: Facts) -> frozenset[int]:
    """Return the indices of the members that have succeeded."""
    there = {node.uid for node in facts.nodes if node.phase is Phase.SUCCEEDED} | gone_well(facts)
    return frozenset(node.index for node in facts.job.status.nodes if node.rank is not None and node.uid in there)


def gone_well(facts: Facts) -> frozenset[str]:
    """Return the uids of pods that succeeded and were then deleted by something else: they need no replacement."""
    there = {node.uid for node in facts.nodes}
    recorded = facts.job.status.nodes
    return frozenset(node.uid for node in recorded if node.phase == Phase.SUCCEEDED and node.uid not in there)


def _formed(facts: Facts) -> bool:
    """Whether a round was ever complete, as far as the operator knows."""
    rendezvous = facts.rendezvous
    if any(node.rank is not None for node in facts.job.status.nodes):
        return True
    if rendezvous is None:
        return False
    return rendezvous.completed_at is not None or rendezvous.complete or rendezvous.closed or rendezvous.finished > 0


def _alone(facts: Facts) -> Completion:
    """Return the completion of a job whose nodes succeed without a round. Those that still run may end by themselves.

    The host knows whether there was a round. One that cannot start never completed any.
    """
    host = facts.rendezvous_pod
    known = facts.rendezvous is not None or (host is not None and host.wait.reason in FATAL_WAITS)
    if not known or any(node.phase is Phase.RUNNING for node in facts.nodes):
        return Completion(finishing=True)
    since = facts.job.status.rendezvous.no_round_since or facts.now
    certain = not since <= facts.now < since + _NEWS  # or the clock was set back
    return Completion(finishing=True, no_round_since=since, no_round=certain)


def _members(facts: Facts, wanted: int) -> list[Phase | None]:
    """Return the phase of each member; None: it is gone. Without recorded ranks every started node is a member."""
    phases: dict[str, Phase] = dict.fromkeys(gone_well(facts), Phase.SUCCEEDED)
    phases |= {node.uid: node.phase for node in facts.nodes}
    recorded = [node for node in facts.job.status.nodes if node.rank is not None]
    if recorded:
        return [phases.get(node.uid) for node in recorded]
    started = [phase for phase in phases.values() if phase not in (Phase.PENDING, Phase.STARTING)]
    succeeded = [phase for phase in started if phase is Phase.SUCCEEDED]
    enough = facts.job.spec.elasticity.spares and len(succeeded) >= wanted
    return [*succeeded] if enough else [*started]
