"""The newest failure, told so that a person need not look for it: which rank, how it ended, what it said. Pure."""

from collections.abc import Sequence
from datetime import datetime

from torchrun_operator.api.conditions import Reason
from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, TorchrunJob
from torchrun_operator.core.accounting import Loss, WorkerFailures, signal_name
from torchrun_operator.core.hang import Hang
from torchrun_operator.core.observed import Cause, Observed
from torchrun_operator.core.words import Words, earliest, of_termination

HUNG = Reason.PROGRESS_DEADLINE_EXCEEDED
"""Reason of a failure of workers that made no progress for too long."""
WORKERS_FAILED = "WorkersFailed"
"""Reason of a failure of workers whose agents restart them in place."""
_MOST_LOGS = 8
"""Members whose logs are read: the node that is seen to leave first need not be the one that failed first."""


def newest(
    job: TorchrunJob,
    observed: Observed,
    losses: Sequence[Loss],
    workers: WorkerFailures,
    hang: Hang | None,
    now: datetime,
) -> Failure | None:
    """Return the failure to record, if this pass counts one; the code's before all others."""
    if workers.count:
        return _of_workers(job, observed, workers, now)
    if hang is not None:
        return Failure(time=now, cause=Cause.CODE, reason=HUNG, message=f"workers hang: {hang.told}")
    loss = next((loss for loss in losses if loss.cause is Cause.CODE), next(iter(losses), None))
    return _of_loss(job, observed, loss, now) if loss is not None else None


def logs_to_read(job: TorchrunJob, losses: Sequence[Loss], workers: WorkerFailures) -> tuple[str, ...]:
    """Return the pods whose logs tell of the failures of the code that this pass counts, most telling first."""
    if workers.count:
        members = [node for node in job.status.nodes if node.rank is not None]
        first = [node.pod for node in members if node.address in workers.by]
        return tuple(dict.fromkeys([*first, *(node.pod for node in members)]))[:_MOST_LOGS]
    return tuple(loss.pod for loss in losses if loss.cause is Cause.CODE)[:_MOST_LOGS]


def describe_failure(failure: Failure) -> str:
    """Say in one line what failed first and why."""
    if failure.reason == HUNG:
        return failure.message
    who = f"pod {failure.pod}" if failure.pod else "an unknown node"
    if failure.rank is not None:
        who = f"rank {failure.rank} ({who})"
    return f"{who} failed first: {failure.message or 'see its log'}{_how(failure)}"


def _how(failure: Failure) -> str:
    """Say how it ended, where its message does not."""
    code = [f"exit code {failure.exit_code}"] if failure.exit_code is not None else []
    words = [word for word in (failure.signal, failure.reason) if word and word not in ("Error", WORKERS_FAILED)]
    told = failure.exit_code is None or f"code {failure.exit_code}" in failure.message
    return "" if told else f" ({', '.join([*code, *words])})"


def _of_workers(job: TorchrunJob, observed: Observed, workers: WorkerFailures, now: datetime) -> Failure:
    at = observed.rendezvous.last_unrequested_at if observed.rendezvous is not None else None
    pod, words = earliest(observed.said.items()) or (_first_to_leave(job, workers), Words())
    node = next((node for node in job.status.nodes if node.pod == pod), None)
    ended_by = signal_name(words.exit_code) if words.exit_code is not None and words.exit_code < 0 else ""
    return Failure(
        time=at or now,
        cause=Cause.CODE,
        pod=pod,
        machine=node.machine if node is not None else None,
        rank=_rank(job, node, words) if words.time is not None else None,
        exit_code=words.exit_code,
        signal=ended_by or None,
        reason=WORKERS_FAILED,
        message=words.message or (f"a worker was ended by {ended_by}" if ended_by else "a worker failed"),
        traceback=words.traceback or None,
    )


def _first_to_leave(job: TorchrunJob, workers: WorkerFailures) -> str | None:
    return next((node.pod for node in job.status.nodes if node.address in workers.by), None)


def _of_loss(job: TorchrunJob, observed: Observed, loss: Loss, now: datetime) -> Failure:
    ended = loss.exit
    if ended is None:
        return Failure(time=now, cause=loss.cause, pod=loss.pod, machine=loss.machine, message=loss.what)
    node = next((node for node in job.status.nodes if node.pod == loss.pod), None)
    words = of_termination(ended.message)
    logged = observed.said.get(loss.pod, Words()) if loss.cause is Cause.CODE else Words()
    words = words if words.traceback else logged if logged.message else words
    return Failure(
        time=ended.finished_at or now,
        cause=loss.cause,
        pod=loss.pod,
        machine=loss.machine,
        rank=_rank(job, node, words) if words.traceback else None,
        exit_code=ended.code if ended.code >= 0 else None,
        signal=signal_name(ended.code) or None if ended.code >= 0 else None,
        reason=ended.reason or None,
        message=words.message or loss.what,
        traceback=words.traceback or None,
    )


def _rank(job: TorchrunJob, node: NodeStatus | None, words: Words) -> int | None:
    """Return the worker's global rank: its own word, or what follows from its place on its node."""
    if words.rank is not None:
        return words.rank
    per_node = job.spec.nproc_per_node
    if node is None or node.rank is None or not isinstance(per_node, int):
        return None
    if words.local_rank is None and per_node != 1:
        return None
    return node.rank * per_node + (words.local_rank or 0)
