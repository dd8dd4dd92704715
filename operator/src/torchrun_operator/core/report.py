"""The status that tells of a situation: state, conditions, nodes, membership, progress. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.conditions import (
    Condition,
    ConditionType,
    Reason,
    find_condition,
    has_ended,
    is_true,
    set_condition,
)
from torchrun_operator.api.names import PORT_HTTP, node_selector, rendezvous_name
from torchrun_operator.core.accounting import Loss, WorkerFailures
from torchrun_operator.core.failures import HUNG, describe_failure
from torchrun_operator.core.hang import Hang, hung_round
from torchrun_operator.core.membership import FATAL_WAITS, absence, is_full, rank_of, resized, size, training
from torchrun_operator.core.observed import Cause, NodePod, Observed, Phase, RendezvousPod
from torchrun_operator.core.straggler import straggler

_UNHEARD = timedelta(seconds=20)
"""A host that is ready answers at once; one that is busy loading torch may be slow."""


@dataclass(frozen=True)
class Situation:
    """What this pass found beyond what was observed."""

    losses: tuple[Loss, ...] = ()
    worker_failures: WorkerFailures = field(default_factory=lambda: WorkerFailures(0, 0))
    hang: Hang | None = None
    restarts: api.Restarts | None = None
    """None: as they were."""
    bookkeeping: api.RendezvousStatus | None = None
    complete: bool = False
    exhausted: bool = False
    failure: api.Failure | None = None
    """The newest, if this pass counts one."""
    suspended: bool = False
    deleted: frozenset[str] = frozenset()
    """uids of the pods that this pass deletes: they are not lost."""


@dataclass(frozen=True)
class _Verdict:
    """One condition before it is written."""

    type: ConditionType
    status: bool
    reason: Reason
    message: str


def report(job: api.TorchrunJob, observed: Observed, situation: Situation, now: datetime) -> api.TorchrunJobStatus:
    """Return the whole status. Applied twice to the same situation it gives the same."""
    old = job.status
    restarts = situation.restarts or old.restarts or api.Restarts()
    ended = has_ended(old.conditions) or situation.complete or situation.exhausted
    membership = _membership(job, observed, situation, now)
    conditions = old.conditions
    for verdict in _verdicts(job, observed, situation, membership, now):
        conditions = set_condition(
            conditions,
            verdict.type,
            verdict.status,
            verdict.reason,
            verdict.message,
            now=now,
            generation=job.metadata.generation,
        )
    live = [node for node in observed.nodes if node.live and node.uid not in situation.deleted]
    return api.TorchrunJobStatus(
        observed_generation=job.metadata.generation,
        state=_state(conditions, observed),
        conditions=conditions,
        replicas=min(job.spec.wanted_nodes, len(live)),
        ready_replicas=min(job.spec.wanted_nodes, sum(1 for node in live if node.phase is Phase.RUNNING)),
        selector=node_selector(job.metadata.name),
        membership=membership,
        restarts=restarts,
        restart_count=sum(getattr(restarts, cause) for cause in Cause if cause is not Cause.RESIZE),
        last_failure=situation.failure or old.last_failure,
        rendezvous=situation.bookkeeping or old.rendezvous,
        progress=_progress(old.progress, observed),
        straggler=straggler(old.straggler, observed),
        start_time=old.start_time or now,
        completion_time=old.completion_time or (now if ended else None),
        nodes=_nodes(job, observed, situation),
    )


def unaccepted(
    job_status: api.TorchrunJobStatus, generation: int, reason: Reason, message: str, now: datetime
) -> api.TorchrunJobStatus:
    """Return the status of a job that cannot be worked on as it stands; all else in it stays as it was."""
    conditions = set_condition(
        job_status.conditions, ConditionType.ACCEPTED, False, reason, message, now=now, generation=generation
    )
    return job_status.model_copy(
        update={"conditions": conditions, "state": api.JobState.INVALID, "observed_generation": generation}
    )


def _state(conditions: tuple[Condition, ...], observed: Observed) -> api.JobState:
    for type_, state in (
        (ConditionType.FAILED, api.JobState.FAILED),
        (ConditionType.COMPLETE, api.JobState.COMPLETE),
        (ConditionType.SUSPENDED, api.JobState.SUSPENDED),
        (ConditionType.RESIZING, api.JobState.RESIZING),
        (ConditionType.RUNNING, api.JobState.RUNNING),
    ):
        if is_true(conditions, type_):
            return state
    if not is_true(conditions, ConditionType.ACCEPTED):
        return api.JobState.INVALID
    scheduled = is_true(conditions, ConditionType.SCHEDULED) and bool(observed.nodes)
    return api.JobState.STARTING if scheduled else api.JobState.PENDING


def _membership(job: api.TorchrunJob, observed: Observed, situation: Situation, now: datetime) -> api.Membership:
    old = job.status.membership or api.Membership()
    wanted = 0 if situation.suspended else job.spec.wanted_nodes
    rendezvous = observed.rendezvous
    if rendezvous is None and _only_unheard(observed):
        active = min(old.nodes, sum(1 for node in observed.nodes if node.phase is Phase.RUNNING))
    else:
        active = len(training(observed, 0 if situation.suspended else job.spec.node_pods))
    progress = rendezvous.progress if rendezvous is not None else None
    return api.Membership(
        round=rendezvous.round if rendezvous is not None else old.round,
        nodes=active,
        world_size=_world_size(job, active, progress.world_size if progress else None),
        desired_nodes=wanted,
        spares=_ready_spares(job, observed),
        summary=f"{active}/{job.spec.min_nodes}:{job.spec.max_nodes}",
        instance=rendezvous.instance if rendezvous is not None else old.instance,
        last_change=_last_change(job, observed, situation, old, now),
    )


def _ready_spares(job: api.TorchrunJob, observed: Observed) -> int | None:
    """The nodes beyond a full round whose agents wait for the next."""
    if not job.spec.elasticity.spares:
        return None
    if observed.rendezvous is None or not is_full(observed, job.spec.wanted_nodes):
        return 0
    waiting = frozenset(observed.rendezvous.waiting)
    return sum(1 for node in observed.nodes if node.phase is Phase.RUNNING and node.address in waiting)


def _only_unheard(observed: Observed) -> bool:
    """Whether the rendezvous host is well and merely has not told this operator anything yet, as after its restart."""
    host = observed.rendezvous_pod
    return host is not None and host.ready and host.phase is Phase.RUNNING


def _world_size(job: api.TorchrunJob, nodes: int, reported: int | None) -> int:
    """Nodes times processes; where torchrun chooses the processes (gpu, cpu, auto) the script's word counts."""
    per_node = job.spec.nproc_per_node
    if isinstance(per_node, int):
        return nodes * per_node
    return (reported or 0) if nodes else 0


def _last_change(
    job: api.TorchrunJob, observed: Observed, situation: Situation, old: api.Membership, now: datetime
) -> api.MembershipChange | None:
    """The newest change and, once the script reports a step in a round formed after it, how long that took."""
    if situation.suspended:
        return old.last_change
    if situation.losses:
        return api.MembershipChange(time=now, cause=situation.losses[0].cause)
    if situation.worker_failures.count:
        at = observed.rendezvous.last_unrequested_at if observed.rendezvous else None
        return api.MembershipChange(time=at or now, cause=Cause.CODE)
    if situation.hang is not None:
        return api.MembershipChange(time=now, cause=Cause.CODE)
    if resized(job):
        return api.MembershipChange(time=now, cause=Cause.RESIZE)
    change = old.last_change
    rendezvous = observed.rendezvous
    if change is None or change.recovery_seconds is not None or rendezvous is None or not rendezvous.complete:
        return change
    progress, formed = rendezvous.progress, rendezvous.completed_at
    if progress is None or formed is None or not change.time < formed <= progress.time:
        return change  # steps of the round before: it may go on for a while after the loss of a node
    before = job.status.progress.step if job.status.progress else None
    lost = max(0, before - progress.step + 1) if before is not None else None
    recovery = round((progress.time - change.time).total_seconds(), 1)
    return change.model_copy(update={"recovery_seconds": recovery, "lost_steps": lost})


def _progress(old: api.Progress | None, observed: Observed) -> api.Progress | None:
    new = observed.rendezvous.progress if observed.rendezvous is not None else None
    if new is None:
        return old
    return api.Progress(
        step=new.step,
        total_steps=new.total_steps,
        epoch=new.epoch,
        loss=new.loss,
        samples_per_second=new.samples_per_second,
        world_size=new.world_size,
        snapshot_step=new.snapshot_step,
        snapshot_time=new.snapshot_time,
        time=new.time,
    )


def _nodes(job: api.TorchrunJob, observed: Observed, situation: Situation) -> tuple[api.NodeStatus, ...]:
    """List the nodes by index; one whose pod is gone stays, as lost, until its replacement is there."""
    if situation.suspended:
        return ()
    recorded = {node.index: node for node in job.status.nodes}
    entries = {node.index: _node(job, node, recorded.get(node.index), observed, situation) for node in observed.nodes}
    for index, node in recorded.items():
        if index not in entries and index < job.spec.node_pods and not node.spare:
            rank = node.rank if _may_be_member(node, observed) else None
            entries[index] = node.model_copy(update={"phase": Phase.LOST, "rank": rank})
    return tuple(entries[index] for index in sorted(entries))


def _node(
    job: api.TorchrunJob, node: NodePod, recorded: api.NodeStatus | None, observed: Observed, situation: Situation
) -> api.NodeStatus:
    rank = rank_of(observed, node)
    known = recorded is not None and recorded.uid == node.uid
    if recorded is not None and known and rank is None:
        # Between rounds, and when it has succeeded, a node keeps the rank it had.
        rank = recorded.rank if node.phase is Phase.SUCCEEDED or _may_be_member(recorded, observed) else None
    return api.NodeStatus(
        index=node.index,
        pod=node.name,
        uid=node.uid,
        machine=node.machine,
        phase=Phase.TERMINATING if node.live and _going(node, recorded, observed, situation) else node.phase,
        address=node.address,
        rank=rank,
        spare=_is_spare(job, observed, rank, known=known and recorded is not None and bool(recorded.spare)) or None,
    )


def _going(node: NodePod, recorded: api.NodeStatus | None, observed: Observed, situation: Situation) -> bool:
    """Whether its deletion was decided: now, or before while nothing is heard of the rendezvous that was the reason."""
    before = recorded is not None and recorded.uid == node.uid and recorded.phase == Phase.TERMINATING
    return node.uid in situation.deleted or (before and observed.rendezvous is None)


def _is_spare(job: api.TorchrunJob, observed: Observed, rank: int | None, *, known: bool) -> bool:
    """Whether a node is beyond what is wanted, or was when there last was a complete round."""
    if not job.spec.elasticity.spares or rank is not None:
        return False
    complete = observed.rendezvous is not None and observed.rendezvous.complete
    return is_full(observed, job.spec.wanted_nodes) if complete else known


def _may_be_member(node: api.NodeStatus, observed: Observed) -> bool:
    """Whether no complete round is known that does without the node."""
    rendezvous = observed.rendezvous
    if rendezvous is None or not rendezvous.complete:
        return True
    return any(address == node.address for address, _ in rendezvous.members)


def _verdicts(
    job: api.TorchrunJob, observed: Observed, situation: Situation, membership: api.Membership, now: datetime
) -> list[_Verdict]:
    if has_ended(job.status.conditions):
        return []
    return [
        _accepted(observed),
        _suspended(observed, situation),
        _scheduled(job, observed, situation),
        _running(job, observed, situation, membership, now),
        _resizing(job, observed, situation, membership, now),
        *_straggling(job, observed),
        *_outcome(job, observed, situation),
    ]


def _accepted(observed: Observed) -> _Verdict:
    if observed.foreign:
        names = ", ".join(observed.foreign[:5])
        message = f"pods of another owner carry this job's label: {names}; delete them, or give the job another name"
        return _Verdict(ConditionType.ACCEPTED, False, Reason.NAME_TAKEN, message)
    if observed.refusal:
        reason = Reason.NAME_TAKEN if observed.name_taken else Reason.REFUSED_BY_CLUSTER
        return _Verdict(ConditionType.ACCEPTED, False, reason, observed.refusal)
    return _Verdict(ConditionType.ACCEPTED, True, Reason.VALID, "the job can be run as it is written")


def _suspended(observed: Observed, situation: Situation) -> _Verdict:
    if not situation.suspended:
        return _Verdict(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, "spec.suspend is not set")
    left = len(observed.nodes)
    if left:
        return _Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDING, f"{left} pods are being deleted")
    message = "no pods while spec.suspend is true; set it to false to go on from the last snapshot"
    return _Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDED, message)


def _scheduled(job: api.TorchrunJob, observed: Observed, situation: Situation) -> _Verdict:
    wanted, pods = (0, 0) if situation.suspended else (job.spec.wanted_nodes, job.spec.node_pods)
    nodes = [node for node in observed.nodes if node.index < pods]
    placed = sum(1 for node in nodes if node.scheduled)
    if wanted and placed >= wanted:
        message = f"all {wanted} node pods have a machine"
        if pods > wanted:
            message += f", and {placed - wanted} of {pods - wanted} spares"
        return _Verdict(ConditionType.SCHEDULED, True, Reason.ALL_SCHEDULED, message)
    unplaced = next((node for node in nodes if not node.scheduled and node.waiting_message), None)
    if unplaced is not None:
        message = f"{placed} of {wanted} node pods have a machine; {unplaced.name}: {unplaced.waiting_message}"
        return _Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_CAPACITY, message)
    message = f"{placed} of {wanted} node pods have a machine"
    return _Verdict(ConditionType.SCHEDULED, False, Reason.WAITING_FOR_PODS, message)


def _running(
    job: api.TorchrunJob, observed: Observed, situation: Situation, membership: api.Membership, now: datetime
) -> _Verdict:
    if situation.suspended or situation.complete or situation.exhausted:
        return _Verdict(ConditionType.RUNNING, False, Reason.ENDED, "nothing trains")
    if membership.nodes:
        message = f"{membership.nodes} of {membership.desired_nodes} wanted nodes train in round {membership.round}"
        return _Verdict(ConditionType.RUNNING, True, Reason.TRAINING, message)
    pods: list[NodePod | RendezvousPod] = [*observed.nodes]
    if observed.rendezvous_pod is not None:
        pods.append(observed.rendezvous_pod)
    stuck = next((pod for pod in pods if pod.waiting_reason in FATAL_WAITS), None)
    if stuck is not None:
        message = f"pod {stuck.name} cannot start: {stuck.waiting_reason}: {stuck.waiting_message}"
        return _Verdict(ConditionType.RUNNING, False, Reason.PODS_WAITING, message)
    if observed.rendezvous is None:
        message = f"the rendezvous pod {rendezvous_name(job.metadata.name)} does not answer yet"
        host = observed.rendezvous_pod
        if _only_unheard(observed) and host and host.started_at and now - host.started_at > _UNHEARD:
            message += f", though it is ready: does a network policy keep the operator from its TCP port {PORT_HTTP}?"
        return _Verdict(ConditionType.RUNNING, False, Reason.STARTING_RENDEZVOUS, message)
    joined = len(observed.rendezvous.members)
    message = f"{joined} nodes have joined round {observed.rendezvous.round}; it needs {job.spec.min_nodes}"
    return _Verdict(ConditionType.RUNNING, False, Reason.WAITING_FOR_NODES, message)


def _resizing(
    job: api.TorchrunJob, observed: Observed, situation: Situation, membership: api.Membership, now: datetime
) -> _Verdict:
    """Between a change of a job that has trained and the round that settles it, as far as it can be settled now."""
    trained = any(node.rank is not None for node in job.status.nodes) and not situation.suspended
    if not trained or situation.complete or situation.exhausted:
        return _Verdict(ConditionType.RESIZING, False, Reason.SETTLED, "no change is under way")
    gone = (Phase.LOST, Phase.TERMINATING, Phase.FAILED)
    present = {node.index for node in observed.nodes if node.phase not in gone}
    lost = [
        node.pod for node in job.status.nodes if node.phase in gone and node.index not in present and not node.spare
    ]
    lost += [loss.pod for loss in situation.losses if loss.pod not in lost]
    have, wanted = membership.nodes, membership.desired_nodes
    leaving = any(node.live and node.index >= job.spec.node_pods for node in observed.nodes)
    finishing = not lost and any(node.phase is Phase.SUCCEEDED for node in observed.nodes)
    if (have == wanted and not leaving) or finishing:
        return _Verdict(ConditionType.RESIZING, False, Reason.SETTLED, "no change is under way")
    enough = size(observed, wanted, job.spec.min_nodes, now, spares=job.spec.elasticity.spares)
    if not leaving and have and have >= enough:
        absent = [(node.name, absence(observed, node, now)) for node in observed.nodes if node.index < wanted]
        words = "; ".join([f"{name}: {why}" for name, why in absent if why][:3])
        message = f"{have} of {wanted} wanted nodes train, the others join as soon as they can: {words}"
        return _Verdict(ConditionType.RESIZING, False, Reason.SHORT_OF_NODES, message)
    if lost:
        message = f"{have} of {wanted} nodes train; lost: {', '.join(sorted(lost)[:5])}"
        return _Verdict(ConditionType.RESIZING, True, Reason.NODE_LOST, message)
    if observed.rendezvous is not None and not observed.rendezvous.complete and len(observed.nodes) >= wanted:
        message = f"workers restart; {len(observed.rendezvous.members)} of {wanted} nodes have joined the next round"
        hung = hung_round(observed.rendezvous, job.status.rendezvous)
        if hung is not None and observed.rendezvous.round <= hung + 1:
            return _Verdict(
                ConditionType.RESIZING,
                True,
                Reason.PROGRESS_DEADLINE_EXCEEDED,
                f"round {hung} made no progress; {message}",
            )
        return _Verdict(ConditionType.RESIZING, True, Reason.RESTARTING_WORKERS, message)
    message = f"{have} nodes train, {wanted} are wanted"
    return _Verdict(ConditionType.RESIZING, True, Reason.REPLICAS_CHANGED, message)


def _outcome(job: api.TorchrunJob, observed: Observed, situation: Situation) -> list[_Verdict]:
    if situation.complete:
        count = sum(1 for node in observed.nodes if node.phase is Phase.SUCCEEDED)
        return [_Verdict(ConditionType.COMPLETE, True, Reason.FINISHED, f"all {count} nodes succeeded")]
    if situation.exhausted:
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED if situation.hang else Reason.MAX_RESTARTS_EXCEEDED
        return [_Verdict(ConditionType.FAILED, True, reason, _failure(job, situation))]
    return []


def _failure(job: api.TorchrunJob, situation: Situation) -> str:
    restarts = situation.restarts or job.status.restarts
    count = f"the code has failed {restarts.code} times and spec.maxRestarts is {job.spec.max_restarts}"
    failure = situation.failure or job.status.last_failure
    if failure is None or failure.cause != Cause.CODE:
        return count
    if failure.reason == HUNG:
        return f"{describe_failure(failure)}; {count}"
    return f"{describe_failure(failure)}; {count}; see kubectl logs {failure.pod or job.metadata.name + '-0'}"


def _straggling(job: api.TorchrunJob, observed: Observed) -> list[_Verdict]:
    """Name the worker that the others wait for; a job that never had one has no such condition."""
    slow = straggler(job.status.straggler, observed)
    old = find_condition(job.status.conditions, ConditionType.STRAGGLING)
    if slow is None:
        message = "no worker keeps the others waiting for long"
        return [_Verdict(ConditionType.STRAGGLING, False, Reason.EVEN_PACE, message)] if old is not None else []
    pod = f"pod {slow.pod}" if slow.pod else "an unknown pod"
    where = f"rank {slow.rank} in {pod}" + (f" on {slow.machine}" if slow.machine else "")
    if old is not None and old.reason == Reason.SLOW_WORKER and old.message.startswith(f"{where} "):
        return [_Verdict(ConditionType.STRAGGLING, True, Reason.SLOW_WORKER, old.message)]
    message = f"{where} keeps the others waiting for {slow.lag_seconds:.2g} s of each step of {slow.step_seconds:.2g} s"
    return [_Verdict(ConditionType.STRAGGLING, True, Reason.SLOW_WORKER, message)]
