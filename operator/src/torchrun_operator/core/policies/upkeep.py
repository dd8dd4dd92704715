"""The common part of the policies for active jobs: objects, the rendezvous pod and its target."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from torchrun_operator.api.lead import LeadPod
from torchrun_operator.api.names import rendezvous_name
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, RendezvousPod
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Deletion, Plan, host_deletion
from torchrun_rendezvous.protocol import EndRound, Target

_CRASH_LOOP = timedelta(minutes=1)
"""Minimum time between two replacements of a rendezvous pod that fails repeatedly. A new pod starts at once."""


def going_on(
    facts: Facts,
    findings: Findings,
    *,
    create_nodes: tuple[int, ...] = (),
    names: Mapping[int, str] | None = None,
    lead: LeadPod | None = None,
    deletions: Iterable[Deletion] = (),
    restart_all: str = "",
    later: Iterable[datetime] = (),
) -> Plan:
    """Return the plan of a job that continues: it keeps its objects and its rendezvous pod."""
    services, static = findings.reach.services_due, facts.job.spec.static
    missing = facts.rendezvous_pod is None and rendezvous_name(facts.job.metadata.name) not in facts.foreign
    return Plan(
        apply_objects=True,
        # The pods wait for a name that was taken, so it is tried again.
        apply_services=facts.name_taken or static or (services is not None and services <= facts.now),
        create_rendezvous=missing and not static and not findings.name_taken,
        create_nodes=create_nodes,
        names=names or {},
        lead=lead,
        deletions=_once([*deletions, *([] if findings.completion.broken else stale_host(facts, findings))]),
        restart_all=restart_all,
        target=None if findings.completion.finishing or static else target(facts, findings),
        look_again_seconds=seconds_until(
            [*later, *findings.stopping.later, *_undecided(findings), services, findings.deadline], facts.now
        ),
    )


def target(facts: Facts, findings: Findings, *, close: bool = False) -> Target:
    """Return the target of the rendezvous host. ``close`` ends the rendezvous for good."""
    job, rendezvous, hung = facts.job, facts.rendezvous, findings.counts.hung_round
    return Target(
        generation=job.metadata.generation,
        size=findings.size.round,
        minimum=findings.wanted.minimum,
        last_call_seconds=float(job.spec.rendezvous.last_call_seconds),
        leavers=findings.members.leavers,
        close=close,
        end_round=EndRound(rendezvous.instance, hung) if rendezvous is not None and hung is not None else None,
        progress_deadline_seconds=findings.hangs.limits.step,
        start_deadline_seconds=findings.hangs.limits.start,
    )


def present(facts: Facts) -> list[NodePod]:
    """Return the nodes whose pods are not being deleted."""
    return [node for node in (*facts.nodes, *facts.former) if node.phase is not Phase.TERMINATING]


def stale_host(facts: Facts, findings: Findings) -> tuple[Deletion, ...]:
    """Delete a rendezvous pod that has ended, is lost or closed, waits for a restart, or expects another token."""
    pod = facts.rendezvous_pod
    if pod is None:
        return ()
    if pod.phase in (Phase.FAILED, Phase.SUCCEEDED):
        return (Deletion(pod.name, pod.uid, "it has ended", 0),)
    if pod.phase is Phase.LOST:
        return host_deletion(pod, pod.trouble)
    if findings.completion.rendezvous_spent:
        return host_deletion(pod, "it is closed")
    served = bool(facts.job.status.rendezvous.instance)
    if served and pod.wait.reason == "CrashLoopBackOff" and _aged(pod, facts.now):
        return host_deletion(pod, "its kubelet would wait longer before each further restart")
    if facts.token_digest and pod.token_digest != facts.token_digest:
        return host_deletion(pod, "the operator's key has changed")
    return ()


def seconds_until(times: Iterable[datetime | None], now: datetime) -> float | None:
    """Return the seconds until the earliest future time of these. None: there is none."""
    return min(((at - now).total_seconds() for at in times if at is not None and at > now), default=None)


def _undecided(findings: Findings) -> list[datetime]:
    times = (findings.workers.undecided_until, findings.completion.decided_at)
    return [at for at in times if at is not None]


def _aged(pod: RendezvousPod, now: datetime) -> bool:
    return pod.started_at is not None and now - pod.started_at >= _CRASH_LOOP


def _once(deletions: Iterable[Deletion]) -> tuple[Deletion, ...]:
    """Keep the first deletion of each pod."""
    found: dict[str, Deletion] = {}
    for each in deletions:
        found.setdefault(each.uid, each)
    return tuple(found.values())
