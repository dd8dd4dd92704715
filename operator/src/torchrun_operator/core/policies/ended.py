"""The job is complete or has failed: finished pods stay for their logs, and running pods are stopped."""

from torchrun_operator.api.conditions import ConditionType, is_true
from torchrun_operator.core.facts.model import Facts, Phase, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Plan, Stop, deletion, host_deletion
from torchrun_operator.core.policies.upkeep import target

_LOOK_AGAIN_SECONDS = 5.0
_STOP_GRACE_SECONDS = 60
"""Time for the agents of a failed job to end by themselves, which keeps their logs and exit codes."""
_WHY = "the job has ended"


def ended(facts: Facts, findings: Findings) -> Plan | None:
    """Stop an ended job. The agents of a failed job leave once the rendezvous is closed.

    The pods whose logs may matter are stopped and stay: those whose sidecars run on, those of a failed job that do not
    end by themselves, and those that run on after the lead has completed the job. Other pods are deleted.
    """
    if findings.stage is not Stage.ENDED:
        return None
    status, host = facts.job.status, facts.rendezvous_pod
    failed = is_true(status.conditions, ConditionType.FAILED)
    ended_at = status.completion_time or facts.now
    waiting = failed and (facts.now - ended_at).total_seconds() < _STOP_GRACE_SECONDS
    running = [node for node in facts.nodes if node.live or node.lingers or node.phase is Phase.LOST]
    hears = host is not None and host.phase is Phase.RUNNING  # even if it has not answered this operator yet
    patient = waiting and hears and any(node.phase is Phase.RUNNING for node in running)
    doomed = [node for node in running if not patient or node.phase is not Phase.RUNNING]
    if not failed:
        doomed += [node for node in findings.members.idle if node.phase is Phase.FAILED]  # it came too late
    logs = failed or facts.job.spec.ends_with_lead
    kept = {node.uid for node in doomed if node.lingers or (logs and node.phase is Phase.RUNNING)}
    stops = tuple(Stop(node.name, node.uid) for node in doomed if node.uid in kept and not node.stopping)
    deletions = tuple(deletion(node, _WHY) for node in doomed if node.uid not in kept)
    if patient:
        closing = target(facts, findings, close=True)
        return Plan(deletions=deletions, stops=stops, target=closing, look_again_seconds=_LOOK_AGAIN_SECONDS)
    return Plan(deletions=(*deletions, *host_deletion(host, _WHY)), stops=stops)
