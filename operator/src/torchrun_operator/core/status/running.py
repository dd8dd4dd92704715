"""The condition Running: whether a complete round trains."""

from datetime import timedelta

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.names import PORT_HTTP, node_name, rendezvous_name
from torchrun_operator.api.v1alpha1 import Membership
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, RendezvousPod, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.size import FATAL_WAITS
from torchrun_operator.core.status.verdict import Verdict

_UNHEARD = timedelta(seconds=20)
"""A ready rendezvous host answers at once. One that loads torch may be slow."""


def running(facts: Facts, findings: Findings, membership: Membership) -> Verdict:
    """Return whether nodes train. If none do: what the job waits for."""
    if findings.stage is Stage.SUSPENDED or findings.completion.complete or findings.failing is not None:
        return Verdict(ConditionType.RUNNING, False, Reason.ENDED, "nothing trains")
    if membership.nodes:
        message = f"{membership.nodes} of {membership.desired_nodes} nodes train in round {membership.round}"
        return Verdict(ConditionType.RUNNING, True, Reason.TRAINING, message)
    pods: list[NodePod | RendezvousPod] = [*facts.nodes]
    if facts.rendezvous_pod is not None:
        pods.append(facts.rendezvous_pod)
    waits = next((pod for pod in pods if pod.wait.reason in FATAL_WAITS), None)
    if waits is not None:
        message = f"pod {waits.name} cannot start: {waits.wait.reason}: {waits.wait.message}"
        return Verdict(ConditionType.RUNNING, False, Reason.PODS_WAITING, message)
    if findings.back_off.held:
        return Verdict(ConditionType.RUNNING, False, Reason.BACK_OFF, _held(facts, findings))
    if facts.rendezvous is None:
        return Verdict(ConditionType.RUNNING, False, Reason.STARTING_RENDEZVOUS, _unheard(facts))
    joined, needed = len(facts.rendezvous.members), findings.wanted.minimum
    message = f"{joined} of at least {needed} nodes have joined round {membership.round}"
    return Verdict(ConditionType.RUNNING, False, Reason.WAITING_FOR_NODES, message)


def _held(facts: Facts, findings: Findings) -> str:
    """Return which node waits for its replacement, and how many others do."""
    held = sorted(findings.back_off.held)
    message = f"pod {node_name(facts.job.metadata.name, held[0])} {findings.size.absent[held[0]]}"
    more = len(held) - 1
    return message + (f"; {more} more {'pods wait' if more > 1 else 'pod waits'} as well" if more else "")


def only_unheard(facts: Facts) -> bool:
    """Whether the rendezvous host is ready but has not answered this operator yet, as after a restart."""
    host = facts.rendezvous_pod
    return host is not None and host.ready and host.phase is Phase.RUNNING


def _unheard(facts: Facts) -> str:
    message = f"the rendezvous pod {rendezvous_name(facts.job.metadata.name)} does not answer yet"
    host = facts.rendezvous_pod
    if only_unheard(facts) and host and host.started_at and facts.now - host.started_at > _UNHEARD:
        message += f", though it is ready; check that network policies let the operator reach its TCP port {PORT_HTTP}"
    return message
