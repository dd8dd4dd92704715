"""Who may reach the pods of the job, and, where the namespace restricts that, what they may reach."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from torchrun_operator.api.names import (
    COMPONENT_OPERATOR,
    LABEL_COMPONENT,
    LABEL_JOB_NAME,
    LABEL_MANAGED_BY,
    LABEL_NODE_INDEX,
    LABEL_ROLE,
    MANAGED_BY,
    PORT_HTTP,
    PORT_LIGHTHOUSE,
    ROLE_NODE,
    ROLE_RENDEZVOUS,
    node_policy_name,
    rendezvous_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Installation, Manifest, Part

_DNS_PORTS: Final = (53, 5353)
"""Policies see the port of the DNS server's pod, which is 5353 in OpenShift."""
_PRIVATE: Final = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10",
)  # fmt: skip
"""The addresses of DNS servers that run beside the pods, such as the cache of a Kubernetes node."""


def _policies(job: TorchrunJob, installation: Installation) -> Iterator[Manifest]:
    if job.spec.network_policy:
        others = installation.rules.network_policies
        if not job.spec.static:
            yield _rendezvous_policy(job, installation.namespace, others)
        yield _node_policy(job, others)


def _unwanted(job: TorchrunJob) -> Iterator[Manifest]:
    """Without the field there is no policy, not one that admits all: that one would override policies of others."""
    rendezvous, nodes = _names(job)
    if not job.spec.network_policy or (job.changed and job.spec.static):
        yield {"kind": "NetworkPolicy", "metadata": owned_metadata(job, rendezvous)}
    if not job.spec.network_policy:
        yield {"kind": "NetworkPolicy", "metadata": owned_metadata(job, nodes)}


def _names(job: TorchrunJob) -> tuple[str, str]:
    return rendezvous_name(job.metadata.name), node_policy_name(job.metadata.name)


def _rendezvous_policy(
    job: TorchrunJob, operator_namespace: str | None, others: Iterable[Mapping[str, Any]]
) -> Manifest:
    """Let only the job's own pods reach the store, whose clients unpickle it, and the operator the HTTP port.

    torch looks up the names of both ends of a connection: without DNS, the host would answer only after its timeouts.
    """
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": {LABEL_COMPONENT: COMPONENT_OPERATOR}},
    }
    control: dict[str, Any] = {"ports": [{"port": PORT_HTTP, "protocol": "TCP"}]}
    if operator_namespace is not None:
        control["from"] = [_own_pods(job), operator]
    ports = [job.spec.rendezvous.port, *([PORT_LIGHTHOUSE] if job.spec.per_step else [])]
    store = {"from": [_own_pods(job)], "ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    egress = [_dns()] if _isolated(job, ROLE_RENDEZVOUS, others) else None
    return _policy(job, rendezvous_name(job.metadata.name), ROLE_RENDEZVOUS, ingress=[store, control], egress=egress)


def _node_policy(job: TorchrunJob, others: Iterable[Mapping[str, Any]]) -> Manifest:
    """Let the pods of the job reach the nodes on all ports: rank 0 and the collectives choose theirs at each start.

    Where the namespace denies connections from the nodes, they also get what training needs: the job's own pods, and
    DNS. Elsewhere the policy must not name connections from the nodes at all: it would then deny all others.
    """
    egress = [{"to": [_own_pods(job)]}, _dns()] if _isolated(job, ROLE_NODE, others) else None
    return _policy(
        job, node_policy_name(job.metadata.name), ROLE_NODE, ingress=[{"from": [_own_pods(job)]}], egress=egress
    )


def _dns() -> Manifest:
    """Return the rule that admits connections to DNS servers."""
    servers: list[Manifest] = [{"namespaceSelector": {}}, *({"ipBlock": {"cidr": cidr}} for cidr in _PRIVATE)]
    ports = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    return {"to": servers, "ports": ports}


def _policy(
    job: TorchrunJob, name: str, role: str, *, ingress: list[Manifest], egress: list[Manifest] | None = None
) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(job, name),
        "spec": {
            "podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: role}},
            "policyTypes": ["Ingress"] if egress is None else ["Ingress", "Egress"],
            "ingress": ingress,
            **({} if egress is None else {"egress": egress}),
        },
    }


def _own_pods(job: TorchrunJob) -> Manifest:
    return {"podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name}}}


def _isolated(job: TorchrunJob, role: str, policies: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a policy of others restricts what the pods of this role may reach."""
    templates = [job.spec.template, *([job.spec.rendezvous.template or {}] if role == ROLE_RENDEZVOUS else [])]
    labels = {
        **{k: v for each in templates for k, v in ((each.get("metadata") or {}).get("labels") or {}).items()},
        LABEL_JOB_NAME: job.metadata.name,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_ROLE: role,
        **({LABEL_NODE_INDEX: "0"} if role == ROLE_NODE else {}),
    }
    return any(
        policy["metadata"]["name"] not in _names(job)
        and _restricts_egress(policy.get("spec") or {})
        and _selects((policy.get("spec") or {}).get("podSelector") or {}, labels)
        for policy in policies
    )


def _restricts_egress(spec: Mapping[str, Any]) -> bool:
    types = spec.get("policyTypes")
    return "Egress" in types if types else bool(spec.get("egress"))


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches these labels. An empty one matches all."""
    plain = (labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return all(plain) and all(_fulfils(labels, each) for each in selector.get("matchExpressions") or ())


def _fulfils(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


PART = Part(prerequisites=_policies, unwanted=_unwanted)
