"""The condition Resizing: True from a change of a job that has trained until the round that settles it."""

from torchrun_operator.api.conditions import ConditionType, Reason, find_condition
from torchrun_operator.api.v1alpha1 import Membership, NodeStatus
from torchrun_operator.core.facts.model import GONE, Cause, Facts, Phase, RendezvousPod, Stage
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.phrases import named, share
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.status.verdict import Verdict
from torchrun_operator.core.status.waiting import that_lasts

_MOST_ABSENT = 3
_NO_CHANGE = "no change is under way"


def resizing(facts: Facts, findings: Findings, plan: Plan, membership: Membership) -> Verdict:
    """Return whether a change is under way, and its reason. It is settled once all nodes that can train do."""
    trained = any(node.rank is not None for node in facts.job.status.nodes)
    if not trained or findings.stage is Stage.SUSPENDED or findings.over:
        return _settled()
    lost = _lost(facts, findings)
    have, wanted = membership.nodes, membership.desired_nodes
    train = share(have, wanted, "node", "trains", "train")
    leaving = bool(findings.members.surplus)
    finishing = not lost and any(node.phase is Phase.SUCCEEDED for node in facts.nodes)
    everyone = _everyone(facts, findings, plan, have)
    if not everyone and ((have == wanted and not leaving) or finishing):
        return _settled()
    if findings.losses.undecided:
        failed = named(sorted(node.name for node in facts.nodes if node.uid in findings.losses.undecided))
        return Verdict(ConditionType.RESIZING, True, Reason.NODE_LOST, f"failed: {failed}; all nodes start again")
    if have and have >= findings.size.round and not leaving and not findings.losses.nodes:
        words = "; ".join(_absent(facts, findings)[:_MOST_ABSENT])
        message = f"{train}; the others join later: {words}"
        return Verdict(ConditionType.RESIZING, False, Reason.SHORT_OF_NODES, message)
    if findings.stopping.slow:
        message = "; ".join([train, *findings.stopping.slow])
        return Verdict(ConditionType.RESIZING, True, Reason.SLOW_TO_STOP, message)
    if everyone:
        return Verdict(ConditionType.RESIZING, True, Reason.RESTARTING_ALL, everyone)
    lasting = that_lasts(findings.waits, findings.wanted.pods, facts.job.metadata.namespace)
    if lost:
        message = f"{train}; lost: {named(sorted(lost))}"
        return Verdict(ConditionType.RESIZING, True, Reason.NODE_LOST, "; ".join([message, *lasting]))
    if facts.rendezvous is not None and not facts.rendezvous.complete and len(facts.nodes) >= wanted:
        return _restarting(facts, findings, wanted, lasting)
    message = f"{train}; the job changes its size"
    return Verdict(ConditionType.RESIZING, True, Reason.REPLICAS_CHANGED, "; ".join([message, *lasting]))


def _settled() -> Verdict:
    return Verdict(ConditionType.RESIZING, False, Reason.SETTLED, _NO_CHANGE)


def _everyone(facts: Facts, findings: Findings, plan: Plan, have: int) -> str:
    """Return that all nodes start again and why; empty if they do not. The first words stay until a node trains."""
    before = find_condition(facts.job.status.conditions, ConditionType.RESIZING)
    if not have and before is not None and before.reason == Reason.RESTARTING_ALL:
        return before.message
    ending = bool(have) or findings.completion.finishing or facts.job.spec.static
    why = plan.restart_all or ("" if ending else _host_away(facts.rendezvous_pod))
    return f"all nodes start again from the last snapshot, because {why}" if why else ""


def _host_away(pod: RendezvousPod | None) -> str:
    """Return why agents have no rendezvous host. Empty: its pod runs."""
    if pod is None:
        return "the rendezvous pod is gone"
    if pod.phase is Phase.RUNNING:
        return ""
    if pod.phase in (Phase.PENDING, Phase.STARTING):
        return f"the rendezvous pod {pod.name} is new"
    return f"the rendezvous pod {pod.name} {'is being deleted' if pod.phase is Phase.TERMINATING else 'has ended'}"


def _lost(facts: Facts, findings: Findings) -> list[str]:
    """Return the names of the lost pods without a replacement. Pods that leave by plan are not lost."""
    present = {node.index for node in facts.nodes if node.phase not in GONE}
    change = facts.job.status.membership.last_change
    planned = {Phase.TERMINATING} if change is not None and change.cause == Cause.RESIZE else frozenset()
    recorded = [
        node.pod
        for node in facts.job.status.nodes
        if node.phase in GONE - planned and node.index not in present and _expected(node, findings)
    ]
    return [*recorded, *(loss.pod for loss in findings.losses.nodes if loss.pod not in recorded)]


def _expected(node: NodeStatus, findings: Findings) -> bool:
    """Whether the job wants the node to train."""
    return node.index < findings.wanted.pods and not node.spare


def _absent(facts: Facts, findings: Findings) -> list[str]:
    """Return a phrase for each absent node, with the reason."""
    absent = findings.size.absent
    return [f"{facts.pod_name(index)}: {absent[index]}" for index in sorted(absent) if index < findings.wanted.nodes]


def _restarting(facts: Facts, findings: Findings, wanted: int, lasting: list[str]) -> Verdict:
    assert facts.rendezvous is not None
    joined, hung = len(facts.rendezvous.members), findings.counts.hung_round
    message = f"workers restart; {share(joined, wanted, 'node', 'has', 'have')} joined the next round"
    message = "; ".join([message, *lasting])
    if hung is not None and facts.rendezvous.round <= hung + 1:
        message = f"round {findings.counts.shown_round(hung)} made no progress; {message}"
        return Verdict(ConditionType.RESIZING, True, Reason.PROGRESS_DEADLINE_EXCEEDED, message)
    return Verdict(ConditionType.RESIZING, True, Reason.RESTARTING_WORKERS, message)
