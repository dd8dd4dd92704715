"""The newest failure, with its rank, exit code and error message."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from torchrun_operator.api.v1alpha1 import Failure, NodeStatus, TorchrunJob
from torchrun_operator.core.facts.model import Cause, Exit, Facts
from torchrun_operator.core.facts.words import Words, earliest, of_termination
from torchrun_operator.core.findings.causes import describe, signal_name
from torchrun_operator.core.findings.hangs import Hang
from torchrun_operator.core.findings.losses import Loss
from torchrun_operator.core.findings.workers import FailureReason, WorkerFailures
from torchrun_operator.core.phrases import named

_AGENT_FAILED = 1
"""The exit code of torchrun after a failure of its workers, which have codes of their own."""


def newest(facts: Facts, losses: Sequence[Loss], workers: WorkerFailures, hang: Hang | None) -> Failure | None:
    """Return the failure to record, if this pass counts one. A failure of the code has priority."""
    if workers.count:
        return _of_workers(facts, workers)
    if hang is not None:
        return Failure(
            time=facts.now, cause=Cause.CODE, reason=FailureReason.HUNG, message=f"workers hang: {hang.told}"
        )
    by_code = {loss.pod: loss for loss in losses if loss.cause is Cause.CODE}
    said = earliest((pod, facts.said[pod]) for pod in by_code if pod in facts.said)
    loss = by_code[said[0]] if said is not None else next(iter([*by_code.values(), *losses]), None)
    return _of_loss(facts, loss) if loss is not None else None


def describe_failure(failure: Failure) -> str:
    """Describe in one line what failed first and why."""
    rule = rule_words(failure)
    return _what_failed(failure) + (f"; {rule}" if rule else "")


def rule_words(failure: Failure) -> str:
    """Say which rule decides about the failure. Empty: none does."""
    return f"rule {failure.rule + 1} of spec.failurePolicy says {failure.action}" if failure.rule is not None else ""


def _what_failed(failure: Failure) -> str:
    if failure.reason == FailureReason.HUNG:
        return failure.message
    who = f"pod {failure.pod}" if failure.pod else "an unknown node"
    if failure.rank is not None:
        who = f"rank {failure.rank} ({who})"
    if failure.container is not None:
        who = f"container {failure.container} of {who}"
    if failure.reason == FailureReason.OTHERS_FINISHED:
        return f"{who} failed {failure.message}{_how(failure)}"
    return f"{who} failed first: {failure.message or 'see its log'}{_how(failure)}"


def _how(failure: Failure) -> str:
    """Return how it ended, if the message does not contain it."""
    words = [
        word
        for word in (failure.signal, failure.reason)
        if word and word not in ("Error", FailureReason.WORKERS_FAILED, FailureReason.OTHERS_FINISHED)
    ]
    if failure.exit_code is None or failure.message == describe(
        Exit(failure.exit_code, failure.reason or "", "", None)
    ):
        return ""
    return f" ({', '.join([f'exit code {failure.exit_code}', *words])})"


def _of_workers(facts: Facts, workers: WorkerFailures) -> Failure:
    job = facts.job
    members = {node.pod for node in job.status.nodes if node.rank is not None}
    said = [(pod, words) for pod, words in facts.said.items() if pod in members]  # not of a spare that failed as well
    pod, words = earliest(said) or (_first_to_leave(job, workers), Words())
    node = next((node for node in job.status.nodes if node.pod == pod), None)
    finished = _finished(facts)
    ended_by = signal_name(words.exit_code) if words.exit_code is not None and words.exit_code < 0 else ""
    return Failure(
        time=failed_at(facts) or facts.now,
        cause=Cause.CODE,
        pod=pod,
        machine=node.machine if node is not None else None,
        rank=_rank(job, node, words) if words.time is not None else None,
        exit_code=words.exit_code,
        signal=ended_by or None,
        reason=FailureReason.OTHERS_FINISHED if finished else FailureReason.WORKERS_FAILED,
        message=finished + (words.message or (f"a worker was ended by {ended_by}" if ended_by else "a worker failed")),
        traceback=words.traceback or None,
    )


def _finished(facts: Facts) -> str:
    """Return who had ended before the workers failed, as the beginning of a message. Empty: no node had."""
    rendezvous = facts.rendezvous
    if rendezvous is None or not rendezvous.unfinished:
        return ""
    members = [node for node in facts.job.status.nodes if node.rank is not None]
    done = [node.pod for node in members if node.address not in rendezvous.unfinished]
    known = len(done) == rendezvous.finished  # others may run, or fail next
    who = named(done) if known else f"{rendezvous.finished} of {len(members)} nodes"
    return f"after {who} had ended with exit code 0: "


def _first_to_leave(job: TorchrunJob, workers: WorkerFailures) -> str | None:
    return next((node.pod for node in job.status.nodes if node.address in workers.by), None)


def failed_at(facts: Facts) -> datetime | None:
    """Return when a member last left its round because its workers failed, by the clock of the rendezvous host."""
    last = facts.rendezvous.last_unrequested if facts.rendezvous is not None else None
    return last.time if last is not None else None


def _of_loss(facts: Facts, loss: Loss) -> Failure:
    job, ended = facts.job, loss.exit
    if ended is None:
        return Failure(time=facts.now, cause=loss.cause, pod=loss.pod, machine=loss.machine, message=loss.what)
    node = next((node for node in job.status.nodes if node.pod == loss.pod), None)
    words = of_termination(ended.message)
    logged = facts.said.get(loss.pod, Words()) if loss.cause is Cause.CODE else Words()
    words = words if words.traceback else logged if logged.message else words
    of_worker = words.traceback and not words.guessed and not ended.container
    code = ended.code if ended.code >= 0 else None
    if code == _AGENT_FAILED and logged.exit_code is not None and not ended.container:
        code = logged.exit_code
    return Failure(
        time=ended.finished_at or facts.now,
        cause=loss.cause,
        pod=loss.pod,
        machine=loss.machine,
        container=ended.container or None,
        rank=_rank(job, node, words) if of_worker else None,
        exit_code=code,
        signal=signal_name(code) or None if code is not None else None,
        reason=ended.reason or None,
        message=words.message or describe(replace(ended, container="")),
        traceback=words.traceback or None,
    )


def _rank(job: TorchrunJob, node: NodeStatus | None, words: Words) -> int | None:
    """Return the rank of the worker: from its log, or computed from its local rank."""
    if words.rank is not None:
        return words.rank
    per_node = job.spec.nproc_per_node
    if node is None or node.rank is None or not isinstance(per_node, int):
        return None
    if words.local_rank is None and per_node != 1:
        return None
    return node.rank * per_node + (words.local_rank or 0)
