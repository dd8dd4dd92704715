"""Whether Kubernetes nodes have room for the pods that have none, and what each lacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from torchrun_cli.doctor.amounts import Amounts, add, amounts, read, shown, total
from torchrun_cli.doctor.case import JobCase, is_host
from torchrun_cli.doctor.findings import Finding, Level, Object, many, names, ok
from torchrun_cli.doctor.limits import with_defaults
from torchrun_cli.doctor.quota import level_without

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_MOST_NODES: Final = 10
_HARD: Final = ("NoSchedule", "NoExecute")


@dataclass
class Computer:
    """A Kubernetes node, and what is left of it."""

    name: str
    node: Object
    free: Amounts


def room(case: JobCase, check: str) -> Iterator[Finding]:
    """Say whether the pods without a Kubernetes node would find one, and what each Kubernetes node lacks."""
    if case.job is None:
        return
    if not case.unplaced:
        if case.pods:
            yield ok(check, "every pod has a Kubernetes node")
        return
    computers = [_computer(node, case.seen.get("allpods")) for node in case.seen.get("nodes")]
    homeless: list[Object] = []
    reasons: dict[str, str] = {}
    for pod in case.unplaced:
        spec = with_defaults(pod, case.seen.get("limitranges"))["spec"]
        lacking = {each.name: obstacle(spec, each) for each in computers}
        fitting = [each for each in computers if not lacking[each.name]]
        if not fitting:
            homeless.append(pod)
            reasons = reasons or lacking
            continue
        chosen = min(fitting, key=lambda each: sum(each.free.get(name, Decimal(0)) for name in _devices(spec)))
        chosen.free = add(chosen.free, {name: -amount for name, amount in _needs(spec).items()})
    if homeless:
        yield _without_room(case, check, homeless, reasons)
    else:
        yield _with_room(case, check)


def _without_room(case: JobCase, check: str, homeless: list[Object], reasons: Mapping[str, str]) -> Finding:
    every = len(case.unplaced)
    first = "the rendezvous pod" if is_host(homeless[0]) else homeless[0]["metadata"]["name"]
    words = f"no Kubernetes node has room for {len(homeless)} of {many(every, 'waiting pod')}"
    if not reasons:
        words = "the cluster has no Kubernetes nodes"
    grouped: dict[str, list[str]] = {}
    for computer, why in reasons.items():
        grouped.setdefault(why, []).append(computer)
    details = [f"{names(where)}: {why}" for why, where in grouped.items()]
    more = len(details) - _MOST_NODES
    details = [*details[:_MOST_NODES], *([f"{more} more"] if more > 0 else [])]
    level = Level.WARNING if case.suspended else level_without(case, homeless)
    advice = "free capacity, request less in spec.template, correct nodeSelector or tolerations, or lower spec.replicas"
    return Finding(check, level, f"{words}; for {first}:" if details else words, advice, tuple(details))


def _with_room(case: JobCase, check: str) -> Finding:
    refused = [pod for pod in case.unplaced if _scheduler(pod)]
    if not refused:
        return ok(check, f"Kubernetes nodes have room for {many(len(case.unplaced), 'waiting pod')}")
    words = f"by requests, taints and labels there is room; the scheduler says of {refused[0]['metadata']['name']}: "
    advice = "pod affinity, topology spread, host ports and the zones of volumes are not checked here: read its words"
    return Finding(check, Level.WARNING, words + _scheduler(refused[0]), advice)


def _scheduler(pod: Object) -> str:
    for each in (pod.get("status") or {}).get("conditions") or ():
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return " ".join(str(each.get("message") or each.get("reason") or "").split())
    return ""


def _computer(node: Object, pods: tuple[Object, ...]) -> Computer:
    name = node["metadata"]["name"]
    here = [pod for pod in pods if pod["spec"].get("nodeName") == name and _runs(pod)]
    used = add(total(amounts(pod["spec"], "requests") for pod in here), {"pods": Decimal(len(here))})
    allocatable = read((node.get("status") or {}).get("allocatable"))
    return Computer(name, node, add(allocatable, {key: -value for key, value in used.items()}))


def _runs(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _needs(spec: Object) -> Amounts:
    return {**amounts(spec, "requests"), "pods": Decimal(1)}


def _devices(spec: Object) -> list[str]:
    """Return what decides which Kubernetes node is the tightest: devices, else processors."""
    return [name for name in amounts(spec, "requests") if "/" in name] or ["cpu"]


def obstacle(spec: Object, computer: Computer) -> str:
    """Return why a pod cannot run on a Kubernetes node, in its present state. Empty: it can."""
    node = computer.node
    labels, name = node["metadata"].get("labels") or {}, computer.name
    found = [*_state(node, spec)]
    found += [
        f"has no label {key}={value}"
        for key, value in (spec.get("nodeSelector") or {}).items()
        if labels.get(key) != value
    ]
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms = required.get("nodeSelectorTerms") or []
    if terms and not any(_term(term, labels, name) for term in terms):
        found.append("does not match the node affinity")
    found += [f"has the taint {_written(taint)}" for taint in _taints(node) if not tolerated(taint, spec)]
    for key, amount in _needs(spec).items():
        free = computer.free.get(key, Decimal(0))
        if amount > free:
            found.append(f"lacks {key}: {shown(key, max(free, Decimal(0)))} free, {shown(key, amount)} requested")
    return "; ".join(found)


def _state(node: Object, spec: Object) -> Iterator[str]:
    conditions = {each.get("type"): each.get("status") for each in (node.get("status") or {}).get("conditions") or ()}
    if conditions.get("Ready") != "True":
        yield "is not ready"
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if (node.get("spec") or {}).get("unschedulable") and not tolerated(cordon, spec):
        yield "is cordoned"


def _taints(node: Object) -> list[dict[str, Any]]:
    """Return the taints that keep pods away, without those that only say what is reported anyway."""
    taints = (node.get("spec") or {}).get("taints") or []
    said = ("node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [each for each in taints if each.get("effect") in _HARD and each.get("key") not in said]


def _written(taint: Mapping[str, Any]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


def tolerated(taint: Mapping[str, Any], spec: Object) -> bool:
    """Whether a pod tolerates a taint. Kubernetes adds a toleration for each device that the pod requests."""
    if taint.get("key") in amounts(spec, "requests"):
        return True
    return any(_tolerates(each, taint) for each in spec.get("tolerations") or ())


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def _term(term: Mapping[str, Any], labels: Mapping[str, str], name: str) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    by_label = all(_fulfils(each, labels.get(each["key"])) for each in expressions)
    return by_label and all(_fulfils(each, name) for each in fields)


def _fulfils(expression: Mapping[str, Any], value: str | None) -> bool:
    values = expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    if value is None or not value.lstrip("-").isdigit() or not values or not str(values[0]).lstrip("-").isdigit():
        return False
    return int(value) > int(values[0]) if expression.get("operator") == "Gt" else int(value) < int(values[0])
