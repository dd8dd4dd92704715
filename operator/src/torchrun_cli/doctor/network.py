"""Whether the network policies of the namespace let through what a job needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal

from torchrun_cli.doctor.case import JobCase, is_host, labels_of, wanted_pods
from torchrun_cli.doctor.findings import Finding, Level, Object, names, ok
from torchrun_operator.api.names import (
    COMPONENT_OPERATOR,
    LABEL_COMPONENT,
    PORT_HTTP,
    node_policy_name,
    rendezvous_name,
)
from torchrun_operator.render.namespace import NamespaceRules
from torchrun_operator.render.part import Installation
from torchrun_operator.render.parts.network import PART
from torchrun_operator.render.programs import Programs

_ANY_PORT: Final = 45678
"""Stands for the ports that rank 0 and the collectives choose."""
Direction = Literal["Ingress", "Egress"]


@dataclass(frozen=True)
class End:
    """One end of a connection."""

    labels: Mapping[str, str]
    namespace: str | None
    """None: unknown."""
    namespace_labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    """Those that are known. Without any, a rule about addresses is no reason to say that something is closed."""


def network(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which connections of the job the policies of its namespace close."""
    if case.job is None:
        return
    own = {rendezvous_name(case.name), node_policy_name(case.name)}
    others = [each for each in case.seen.get("networkpolicies") if each["metadata"]["name"] not in own]
    if not others:
        yield ok(check, "no policies of others in the namespace")
        return
    installed = Installation(Programs(b"", b"", b""), None, NamespaceRules(network_policies=tuple(others)))
    wanted = list(PART.prerequisites(case.job, installed))
    closed: dict[str, list[str]] = {}
    for words, source, target, port in _connections(case):
        for policies in _closing(others, [*wanted, *others], source, target, port):
            closed.setdefault(words, []).extend(policies)
    for words, policies in closed.items():
        advice = "let spec.networkPolicy be true, or add a policy that admits this; see docs/security.md"
        yield Finding(check, Level.FAILED, f"{names(dict.fromkeys(policies))} would close {words}", advice)
    if not closed:
        leave = "leaves" if len(others) == 1 else "leave"
        yield ok(check, f"{names(each['metadata']['name'] for each in others)} {leave} the connections of the job open")


def _connections(case: JobCase) -> Iterator[tuple[str, End, End, int]]:
    """Yield what a job needs: the two ends, the port, and words."""
    assert case.job is not None
    labels = _namespace_labels(case)
    known = tuple(ip for pod in case.pods if (ip := (pod.get("status") or {}).get("podIP")))
    ends = {is_host(pod): End(labels_of(pod), case.namespace, labels, known) for pod in wanted_pods(case.job)}
    node = ends[False]
    yield "the connections between the nodes", node, node, _ANY_PORT
    if True in ends:
        port = case.job.spec.rendezvous.port
        yield f"the connections of the nodes to the rendezvous pod, port {port}", node, ends[True], port
        operator = End({LABEL_COMPONENT: COMPONENT_OPERATOR}, None, {})
        yield (
            f"the connections of the operator to the rendezvous pod, port {PORT_HTTP}",
            operator,
            ends[True],
            PORT_HTTP,
        )


def _namespace_labels(case: JobCase) -> dict[str, str]:
    known = next(iter(case.seen.get("namespaces")), None)
    given = labels_of(known) if known is not None else {}
    return {"kubernetes.io/metadata.name": case.namespace, **given}


def _closing(others: list[Object], every: list[Object], source: End, target: End, port: int) -> Iterator[list[str]]:
    """Yield the names of the policies of others that close a connection, at either end."""
    if source.namespace is not None:  # the operator's own end is not in this namespace
        yield from _closed(others, every, "Egress", source, target, port)
    yield from _closed(others, every, "Ingress", target, source, port)


def _closed(
    others: list[Object], every: list[Object], direction: Direction, subject: End, peer: End, port: int
) -> Iterator[list[str]]:
    """Policies add up: a connection is closed if one selects the pod, and none that does admits it."""
    isolating = [
        each for each in every if _restricts(each, direction) and selects(_of(each, "podSelector"), subject.labels)
    ]
    if isolating and not any(_admits(each, direction, subject, peer, port) for each in isolating):
        yield [each["metadata"]["name"] for each in isolating if each in others]


def _of(policy: Object, key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (policy.get("spec") or {}).get(key) or {}
    return found


def _restricts(policy: Object, direction: Direction) -> bool:
    spec = policy.get("spec") or {}
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return direction in types


def _admits(policy: Object, direction: Direction, subject: End, peer: End, port: int) -> bool:
    rules = (policy.get("spec") or {}).get(direction.lower()) or ()
    side = "from" if direction == "Ingress" else "to"
    return any(_port(rule.get("ports"), port) and _peer(rule.get(side), subject, peer) for rule in rules)


def _port(ports: list[Object] | None, port: int) -> bool:
    if not ports:
        return True
    for each in ports:
        if each.get("protocol", "TCP") != "TCP":
            continue
        first = each.get("port")
        # A name may be that of any port: it does not close.
        if first is None or isinstance(first, str) or first <= port <= (each.get("endPort") or first):
            return True
    return False


def _peer(peers: list[Object] | None, subject: End, peer: End) -> bool:
    return not peers or any(_is_peer(each, subject, peer) for each in peers)


def _is_peer(rule: Object, subject: End, peer: End) -> bool:
    if "ipBlock" in rule:
        return all(_inside(address, rule["ipBlock"]) for address in peer.addresses)
    if "namespaceSelector" in rule:
        where = rule["namespaceSelector"] or {}
        if peer.namespace is None:  # the operator: any namespace that is chosen at all may be its own
            where = {}
        if not selects(where, peer.namespace_labels):
            return False
    elif peer.namespace != subject.namespace:
        return False
    return selects(rule.get("podSelector") or {}, peer.labels)


def _inside(address: str, block: Object) -> bool:
    try:
        where = ip_address(address)
        inside = where in ip_network(block["cidr"], strict=False)
        return inside and not any(where in ip_network(each, strict=False) for each in block.get("except") or ())
    except ValueError:
        return True


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches these labels. An empty one matches all."""
    plain = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return plain and all(_fulfils(each, labels.get(each["key"])) for each in selector.get("matchExpressions") or ())


def _fulfils(expression: Mapping[str, Any], value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in (expression.get("values") or ())
        case "NotIn":
            return value not in (expression.get("values") or ())
        case "Exists":
            return value is not None
    return value is None
