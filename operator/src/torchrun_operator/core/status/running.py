"""The condition Running: whether a complete round trains."""

from datetime import timedelta

from torchrun_operator.api.commands import launch_words
from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.names import PORT_HTTP, rendezvous_name
from torchrun_operator.api.v1alpha1 import Membership
from torchrun_operator.core.facts.model import Facts, Phase, Stage
from torchrun_operator.core.findings.backoff import starting_again
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.waits import Kind
from torchrun_operator.core.phrases import named, share
from torchrun_operator.core.status.verdict import Verdict
from torchrun_operator.core.status.waiting import about_host, about_nodes

_UNHEARD = timedelta(seconds=20)
"""A ready rendezvous host answers at once. One that loads torch may be slow."""

_NOT_STUCK = (Kind.UNHEARD, Kind.STARTING, Kind.GONE)
"""The condition Scheduled names the pods that are not scheduled."""


def running(facts: Facts, findings: Findings, membership: Membership) -> Verdict:
    """Return whether nodes train. If none do: what the job waits for."""
    if findings.stage is Stage.SUSPENDED or findings.over:
        return Verdict(ConditionType.RUNNING, False, Reason.ENDED, "nothing trains")
    if membership.nodes:
        train = share(membership.nodes, membership.desired_nodes, "node", "trains", "train")
        message = f"{train} in round {membership.round}"
        if facts.job.spec.static:
            message = f"{_run(membership.nodes, membership.desired_nodes)} in round {membership.round}"
        return Verdict(ConditionType.RUNNING, True, Reason.TRAINING, message + _without_host(facts) + _finished(facts))
    if findings.waits.elsewhere:
        return Verdict(ConditionType.RUNNING, True, Reason.TRAINS_ELSEWHERE, _elsewhere(facts, findings))
    reason, said = _waits(facts, findings, membership.round)
    return Verdict(ConditionType.RUNNING, False, reason, "; ".join(filter(None, said)))


def _without_host(facts: Facts) -> str:
    host = facts.rendezvous_pod
    if facts.job.spec.static or facts.rendezvous is not None or (host is not None and host.ready):
        return ""
    return "; the rendezvous pod starts again, and the nodes go on meanwhile"


def _waits(facts: Facts, findings: Findings, round_: int) -> tuple[Reason, list[str]]:
    """Return why no round trains, and the sentences about it, the most urgent first."""
    waits, job = findings.waits, facts.job
    host = [about_host(waits.host)] if waits.host is not None else []
    stuck = about_nodes(waits, findings.wanted.pods, [Kind.STUCK], job.metadata.namespace)
    others = about_nodes(waits, findings.wanted.pods, _NOT_STUCK, job.metadata.namespace)
    if stuck or (waits.host is not None and waits.host.kind is Kind.STUCK):
        return Reason.PODS_WAITING, [*host, *stuck, *others]
    if findings.back_off.held:
        return Reason.BACK_OFF, [_held(facts, findings)]
    if facts.job.spec.static:
        running = len(facts.rendezvous.members) if facts.rendezvous is not None else 0
        return Reason.WAITING_FOR_NODES, [_run(running, findings.wanted.nodes), *others]
    if facts.rendezvous is None:
        starting = [*(host or [_unheard(facts)]), *others]
        if waits.launch.options:  # certain enough to say before the rendezvous host is there
            return Reason.OTHER_RENDEZVOUS, [launch_words(waits.launch), *starting]
        return Reason.STARTING_RENDEZVOUS, starting
    joined, needed = len(facts.rendezvous.members), findings.wanted.minimum
    count = f"{share(joined, needed, 'node', 'has', 'have', of='of at least')} joined round {round_}"
    count += f" ({named(waits.came)})" if waits.came else ""
    unheard = any(each.kind is Kind.UNHEARD for each in waits.nodes)
    command = launch_words(waits.launch) if unheard else ""
    if waits.launch.options or waits.launch.launcher or waits.launch.python:
        return Reason.OTHER_RENDEZVOUS, [command, count, *others]
    return Reason.WAITING_FOR_NODES, [count, *others, command]


def _run(running: int, wanted: int) -> str:
    """Return how many nodes of a static job run. Without a rendezvous host, nothing shows whether they train."""
    return share(running, wanted, "node", "runs", "run")


def _elsewhere(facts: Facts, findings: Findings) -> str:
    command = launch_words(findings.waits.launch)
    message = "the script reports progress, but no agent has joined the rendezvous of the job: the nodes train by "
    message += "themselves, and the operator neither sees nor repairs their rounds"
    return f"{message}; {command}" if command else message


def _finished(facts: Facts) -> str:
    """Return how many nodes have ended already, and what they wait for."""
    finished = facts.rendezvous.finished if facts.rendezvous is not None else 0
    if not finished or facts.rendezvous is None or finished >= len(facts.rendezvous.members):
        return ""
    left = len(facts.rendezvous.members) - finished
    done = f"{finished} of them {'have' if finished > 1 else 'has'} ended with exit code 0 and"
    return f"; {done} {'wait' if finished > 1 else 'waits'} up to 300 s for the {'others' if left > 1 else 'other'}"


def _held(facts: Facts, findings: Findings) -> str:
    """Return which node waits for its replacement, and how many others do."""
    held = sorted(findings.back_off.held)
    if facts.job.spec.static:
        return starting_again(findings.back_off.nodes[0])
    message = f"pod {facts.pod_name(held[0])} {findings.size.absent[held[0]]}"
    more = len(held) - 1
    message += f"; {more} more {'pods wait' if more > 1 else 'pod waits'} as well" if more else ""
    remedy = next((each.remedy for each in findings.waits.nodes if each.kind is Kind.GONE and each.remedy), "")
    return f"{message}; {remedy}" if remedy else message


def only_unheard(facts: Facts) -> bool:
    """Whether the rendezvous host is ready but has not answered this operator yet, as after a restart."""
    host = facts.rendezvous_pod
    return host is not None and host.ready and host.phase is Phase.RUNNING


def _unheard(facts: Facts) -> str:
    name, host = rendezvous_name(facts.job.metadata.name), facts.rendezvous_pod
    if host is None:
        return f"the rendezvous pod {name} does not exist yet"
    message = f"the rendezvous pod {name} does not answer yet"
    if only_unheard(facts) and host.started_at and facts.now - host.started_at > _UNHEARD:
        message += f", though it is ready; check that network policies let the operator reach its TCP port {PORT_HTTP}"
    elif not host.ready:
        message += f"; see kubectl -n {facts.job.metadata.namespace} logs {name}"
    return message
