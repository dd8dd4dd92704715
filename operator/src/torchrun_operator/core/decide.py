"""The one decision: from (job, observed, now) to what to do. Pure.

          +-----------+  suspend   +-----------+
new ----> |  Pending  | <--------> | Suspended |
          +-----------+            +-----------+
                | every node pod has a machine     ^
                v                                  | suspend
          +-----------+  round complete  +---------+ -------- losses, replicas -------> +----------+
          | Starting  | ---------------> | Running |                                    | Resizing |
          +-----------+                  +---------+ <------- round complete ---------- +----------+
                                              |                                              |
                         every node succeeded |                       maxRestarts exceeded   |
                                              v                                              v
                                        +----------+                                    +--------+
                                        | Complete |                                    | Failed |
                                        +----------+                                    +--------+
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torchrun_operator.api.conditions import ConditionType, Reason, has_ended, is_true
from torchrun_operator.api.names import node_name, rendezvous_name
from torchrun_operator.api.v1alpha1 import Failure, Membership, RendezvousStatus, Restarts, TorchrunJob
from torchrun_operator.core.accounting import (
    Loss,
    WorkerFailures,
    code_failures,
    describe,
    failed_by_code,
    new_losses,
    new_worker_failures,
)
from torchrun_operator.core.completion import Completion, completion, spares
from torchrun_operator.core.decision import Decision, Deletion, Event
from torchrun_operator.core.failures import HUNG, WORKERS_FAILED, describe_failure, logs_to_read, newest
from torchrun_operator.core.hang import MISSING, Hang, deadlines, hung_round, new_hang, orphaned, stuck, why_stuck
from torchrun_operator.core.membership import (
    Target,
    is_full,
    leavers,
    patience_ends,
    replace_at,
    resized,
    services_due,
    size,
)
from torchrun_operator.core.observed import Cause, NodePod, Observed, Pace, Phase, RendezvousPod
from torchrun_operator.core.report import Situation, report

_RECREATE_SECONDS = 5.0
_ORPHAN_GRACE_SECONDS = 5
"""Workers may save what they can; their agent hangs, because it wants to tell the store that it leaves."""
_STOP_GRACE_SECONDS = 60
"""How long the agents of a failed job have to end by themselves, which keeps their logs and exit codes."""
_CRASH_LOOP = timedelta(minutes=1)
"""A rendezvous host that fails is replaced at most this often: a new pod starts at once."""
_STUCK_GRACE_SECONDS = 1
"""An agent that hangs has been told a minute ago; more than 0, so that its kubelet makes sure that it has ended."""


def decide(job: TorchrunJob, observed: Observed, now: datetime) -> Decision:
    """Return what to do for a valid job."""
    conditions = job.status.conditions
    if has_ended(conditions):
        return _ended(job, observed, now)
    if job.spec.suspend:
        return _suspended(job, observed, now)
    return _active(job, observed, now)


def _ended(job: TorchrunJob, observed: Observed, now: datetime) -> Decision:
    """Keep finished pods for their logs; end what still runs.

    Agents of a failed job leave by themselves once their rendezvous is closed; those that do not are deleted.
    """
    failed = is_true(job.status.conditions, ConditionType.FAILED)
    ended_at = job.status.completion_time or now
    waiting = failed and (now - ended_at).total_seconds() < _STOP_GRACE_SECONDS
    running = [n for n in observed.nodes if n.live or n.lingers or n.phase is Phase.LOST]
    host = observed.rendezvous_pod
    tells = host is not None and host.phase is Phase.RUNNING  # also where it has not answered this operator yet
    patient = waiting and tells and any(n.phase is Phase.RUNNING for n in running)
    doomed = [n for n in running if not patient or n.phase is not Phase.RUNNING]
    if not failed:
        doomed += [n for n in spares(job, observed) if n.phase is Phase.FAILED]  # nothing went wrong, it came too late
    deletions = [_deletion(n, "the job has ended") for n in doomed]
    if not patient:
        deletions += _rendezvous_deletion(observed, "the job has ended")
    return Decision(
        status=report(job, observed, Situation(), now),
        deletions=tuple(deletions),
        target=_target(job, observed, now, close=True) if patient else None,
        look_again_seconds=_RECREATE_SECONDS if patient else None,
    )


def _suspended(job: TorchrunJob, observed: Observed, now: datetime) -> Decision:
    why = "spec.suspend is true"
    present = [n for n in observed.nodes if n.phase is not Phase.TERMINATING]
    deletions = [_deletion(n, why) for n in present] + _rendezvous_deletion(observed, why)
    situation = Situation(suspended=True, deleted=frozenset(n.uid for n in present))
    return Decision(status=report(job, observed, situation, now), deletions=tuple(deletions))


@dataclass(frozen=True)
class _Count:
    """The restarts after this pass, and what is new in them."""

    losses: tuple[Loss, ...]
    spares: tuple[Loss, ...]
    """Spares that were lost, which count nothing."""
    workers: WorkerFailures
    hang: Hang | None
    restarts: Restarts
    bookkeeping: RendezvousStatus
    fresh: dict[str, int]
    failure: Failure | None
    """The newest, if one is counted here."""


def _active(job: TorchrunJob, observed: Observed, now: datetime) -> Decision:
    count = _count(job, observed, now)
    end = completion(job, observed)
    exhausted = count.restarts.code > job.spec.max_restarts and not end.complete
    running = not (end.complete or exhausted)
    pods = _pods(job, observed, count, end, now) if running else _Pods()
    deletions = list(pods.deletions)
    if not (running and end.broken):
        deletions += _stale_rendezvous(job, observed, now, spent=end.rendezvous_spent)
    services = services_due(observed) if running else None
    later = [*pods.later, *([count.workers.undecided_until] if count.workers.undecided_until else [])]
    later += [services] if services is not None and services > now else []
    situation = Situation(
        losses=count.losses,
        worker_failures=count.workers,
        hang=count.hang,
        restarts=count.restarts,
        bookkeeping=count.bookkeeping,
        complete=end.complete,
        exhausted=exhausted,
        failure=count.failure,
        deleted=frozenset(deletion.uid for deletion in deletions),
    )
    freeze = end.finishing and not exhausted
    return Decision(
        status=report(job, observed, situation, now),
        apply_objects=running,
        # A name that was taken is tried again, for the pods wait for it.
        apply_services=running and (observed.name_taken or (services is not None and services <= now)),
        create_rendezvous=running and _rendezvous_missing(job, observed),
        create_nodes=pods.create,
        deletions=tuple(deletions),
        target=None if freeze else _target(job, observed, now, pods.held, count.bookkeeping, close=exhausted),
        events=tuple(_events(job, count, deletions)),
        look_again_seconds=_seconds_until(later, now),
        losses=count.fresh,
        logs_to_read=logs_to_read(job, count.losses, count.workers) if Cause.CODE in count.fresh else (),
        hung=count.hang is not None,
    )


@dataclass(frozen=True)
class _Pods:
    """What to do about the job's pods."""

    create: tuple[int, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    held: frozenset[int] = frozenset()
    """Failed nodes that may not be replaced yet."""
    later: tuple[datetime, ...] = ()
    """When to look again."""


def _pods(job: TorchrunJob, observed: Observed, count: _Count, end: Completion, now: datetime) -> _Pods:
    if _kept_out(job, observed):
        why = "a name that the job needs belongs to somebody else"
        present = [_deletion(n, why) for n in _present(observed)]
        return _Pods(deletions=(*present, *_rendezvous_deletion(observed, why)))
    if end.broken:
        why = "a node was lost after others had finished: all start again from the last snapshot"
        present = [_deletion(n, why) for n in _present(observed)]
        # The rendezvous first: it is what tells an operator that begins here that all have to start again.
        return _Pods(deletions=(*_rendezvous_deletion(observed, why), *present))
    if end.finishing:
        # Their agents could only fail, once those that have finished close the rendezvous.
        why = "the job is about to end, and nobody can be replaced any more"
        idle = [_deletion(n, why) for n in spares(job, observed) if n.live]
        return _Pods(deletions=tuple(idle))
    host = observed.rendezvous_pod
    if host is not None and host.phase is Phase.LOST:
        # Agents whose store has gone without a word hang for a minute before they end.
        why = f"the rendezvous host is lost: {host.trouble}"
        running = [n for n in observed.nodes if n.phase is Phase.RUNNING]
        return _Pods(deletions=tuple(Deletion(n.name, n.uid, why, _ORPHAN_GRACE_SECONDS) for n in running))
    pods = _replace(job, observed, count, now)
    if end.rendezvous_spent or _terminating(observed.rendezvous_pod):
        return replace(pods, create=())  # new agents would join the old rendezvous and end with it
    return pods


def _rendezvous_missing(job: TorchrunJob, observed: Observed) -> bool:
    taken = rendezvous_name(job.metadata.name) in observed.foreign or _kept_out(job, observed)
    return observed.rendezvous_pod is None and not taken


def _kept_out(job: TorchrunJob, observed: Observed) -> bool:
    """Whether a job that never trained finds one of its names taken: it runs nothing until that is free."""
    return observed.name_taken and all(node.rank is None for node in job.status.nodes)


def _count(job: TorchrunJob, observed: Observed, now: datetime) -> _Count:
    status, rendezvous = job.status, observed.rendezvous
    recorded = status.rendezvous or RendezvousStatus()
    full = is_full(observed, job.spec.wanted_nodes)
    found = new_losses(status.nodes, observed, job.spec.node_pods, recorded, full=full)
    found += stuck(job, observed, found, now)
    losses = tuple(loss for loss in found if not loss.spare)
    hang = new_hang(job, observed, recorded) if not losses else None
    workers = new_worker_failures(
        recorded, rendezvous, now, lost_now=bool(losses), last_loss=_last_loss(status.membership, status.last_failure)
    )
    fresh: dict[str, int] = {}
    for loss in losses:
        if loss.cause is not Cause.CODE:
            fresh[loss.cause] = fresh.get(loss.cause, 0) + 1
    code = code_failures(losses, status.last_failure) + workers.count + (hang is not None)
    if code:
        fresh[Cause.CODE] = code
    if resized(job):
        fresh[Cause.RESIZE] = fresh.get(Cause.RESIZE, 0) + 1
    before = status.restarts or Restarts()
    restarts = Restarts(**{cause: getattr(before, cause) + fresh.get(cause, 0) for cause in Cause})
    if rendezvous is None:
        bookkeeping = recorded
    else:
        known = recorded.instance == rendezvous.instance and recorded.since is not None
        since = recorded.since if known else now
        hung = hang.round if hang is not None else hung_round(rendezvous, recorded)
        bookkeeping = RendezvousStatus(
            instance=rendezvous.instance, unrequested=workers.handled, since=since, hung_round=hung
        )
    spares = tuple(loss for loss in found if loss.spare)
    failure = newest(job, observed, losses, workers, hang, now) if fresh else None
    return _Count(losses, spares, workers, hang, restarts, bookkeeping, fresh, failure)


def _last_loss(membership: Membership | None, failure: Failure | None) -> datetime | None:
    """Return when a node was last lost, which explains that its peers' workers fail. Workers that fail do not explain
    that workers fail again.
    """
    change = membership.last_change if membership is not None else None
    if change is None:
        return None
    in_place = failure is not None and failure.reason in (WORKERS_FAILED, HUNG)
    return None if change.cause == Cause.CODE and in_place else change.time


def _replace(job: TorchrunJob, observed: Observed, count: _Count, now: datetime) -> _Pods:
    wanted = job.spec.node_pods
    deletions: list[Deletion] = []
    held: dict[int, datetime] = {}
    cannot_come = why_stuck(job, observed, now)
    given_up_at, _ = orphaned(job, observed)
    for node in observed.nodes:
        if node.index >= wanted and node.live:
            deletions.append(_deletion(node, _surplus(job)))
        elif node.phase is Phase.LOST:
            deletions.append(_deletion(node, node.trouble))
        elif why := cannot_come.get(node.uid):
            grace = _STUCK_GRACE_SECONDS if why == MISSING else _ORPHAN_GRACE_SECONDS
            deletions.append(Deletion(node.name, node.uid, why, grace))
        elif node.phase is Phase.FAILED:
            by_code = failed_by_code(node, job.status.nodes, observed.rendezvous, count.bookkeeping)
            at = replace_at(node, count.restarts.code, failed_by_code=by_code)
            if at is not None and at > now:
                held[node.index] = at
            else:
                deletions.append(_deletion(node, describe(node.exit)))
    there = {node.index for node in observed.nodes}
    name = job.metadata.name
    return _Pods(
        # A pod that an earlier job of this name has left is waited for.
        create=tuple(i for i in range(wanted) if i not in there and node_name(name, i) not in observed.foreign),
        deletions=tuple(deletions),
        held=frozenset(held),
        later=(
            *held.values(),
            *patience_ends(observed, wanted, now),
            *([given_up_at] if given_up_at is not None and given_up_at > now else []),
        ),
    )


def _surplus(job: TorchrunJob) -> str:
    spares = job.spec.elasticity.spares
    return f"spec.replicas asks for {job.spec.wanted_nodes} nodes" + (f", beside {spares} spares" if spares else "")


def _target(
    job: TorchrunJob,
    observed: Observed,
    now: datetime,
    held: frozenset[int] = frozenset(),
    bookkeeping: RendezvousStatus | None = None,
    *,
    close: bool,
) -> Target:
    wanted = job.spec.wanted_nodes
    rendezvous = observed.rendezvous
    hung = hung_round(rendezvous, bookkeeping) if bookkeeping is not None else None
    limits = deadlines(job.spec.progress_deadline_seconds, rendezvous.pace if rendezvous is not None else Pace())
    return Target(
        generation=job.metadata.generation,
        size=size(observed, wanted, job.spec.min_nodes, now, held, job.spec.elasticity.spares),
        minimum=job.spec.min_nodes,
        last_call_seconds=float(job.spec.rendezvous.last_call_seconds),
        leavers=leavers(observed, wanted, job.spec.elasticity.spares),
        close=close,
        end_round=(rendezvous.instance, hung) if rendezvous is not None and hung is not None else None,
        progress_deadline_seconds=limits.step,
        start_deadline_seconds=limits.start,
    )


def _deletion(node: NodePod, why: str) -> Deletion:
    """Delete a node's pod: one that lives in its own time; one that has ended, or that no kubelet can end, at once."""
    if node.live or node.phase is Phase.TERMINATING:
        return Deletion(node.name, node.uid, why)
    return Deletion(node.name, node.uid, why, 1 if node.lingers else 0)


def _present(observed: Observed) -> list[NodePod]:
    return [node for node in observed.nodes if node.phase is not Phase.TERMINATING]


def _terminating(pod: RendezvousPod | None) -> bool:
    return pod is not None and pod.phase is Phase.TERMINATING


def _rendezvous_deletion(observed: Observed, why: str) -> list[Deletion]:
    pod = observed.rendezvous_pod
    if pod is None or _terminating(pod):
        return []
    return [Deletion(pod.name, pod.uid, why, 0 if pod.phase is Phase.LOST else None)]


def _stale_rendezvous(job: TorchrunJob, observed: Observed, now: datetime, *, spent: bool) -> list[Deletion]:
    """A rendezvous pod that has ended for good, is closed, waits to be restarted, or believes another token."""
    pod = observed.rendezvous_pod
    if pod is None:
        return []
    if pod.phase in (Phase.FAILED, Phase.SUCCEEDED):
        return [Deletion(pod.name, pod.uid, "it has ended", 0)]
    if pod.phase is Phase.LOST:
        return _rendezvous_deletion(observed, pod.trouble)
    if spent:
        return _rendezvous_deletion(observed, "it is closed")
    served = job.status.rendezvous is not None and bool(job.status.rendezvous.instance)
    if served and pod.waiting_reason == "CrashLoopBackOff" and _aged(pod, now):
        return _rendezvous_deletion(observed, "its kubelet would let it wait longer with each restart")
    if observed.token_digest and pod.token_digest != observed.token_digest:
        return _rendezvous_deletion(observed, "the operator's key has changed")
    return []


def _aged(pod: RendezvousPod, now: datetime) -> bool:
    return pod.started_at is not None and now - pod.started_at >= _CRASH_LOOP


def _events(job: TorchrunJob, count: _Count, deletions: list[Deletion]) -> list[Event]:
    events = [
        Event("NodeLost", f"Node {loss.index} (pod {loss.pod}) {loss.what}; cause: {loss.cause}", warning=True)
        for loss in count.losses
    ]
    events += [
        Event("SpareLost", f"Spare node {loss.index} (pod {loss.pod}) {loss.what}; training goes on", warning=True)
        for loss in count.spares
    ]
    if count.workers.count and count.failure is not None:
        words = describe_failure(count.failure)
        events.append(Event("WorkersFailed", f"Workers failed and restart in place; {words}", warning=True))
    if count.hang is not None:
        events.append(Event(Reason.PROGRESS_DEADLINE_EXCEEDED, f"Workers hang: {count.hang.told}", warning=True))
    events += [
        Event("NodeRemoved", f"Pod {d.name} is removed: {d.why}")
        for d in deletions
        if d.why.startswith("spec.replicas")
    ]
    return events


def _seconds_until(times: list[datetime], now: datetime) -> float | None:
    return max(0.0, min((at - now).total_seconds() for at in times)) if times else None
