"""Whether the rules of a namespace let a job in: quotas, LimitRanges, Pod Security, network policies."""

from typing import Any

import pytest

from doctor_jobs import FAILED, OK, PODS, WARNING, Row, case, check, host, job, named, with_template, with_trainer
from torchrun_cli.doctor.findings import Level
from torchrun_cli.doctor.limits import limit_ranges
from torchrun_cli.doctor.network import network
from torchrun_cli.doctor.quota import quotas
from torchrun_cli.doctor.security import pod_security


def quota(used: str, **hard: str) -> dict[str, Any]:
    return named("ResourceQuota", "q", status={"hard": hard, "used": dict.fromkeys(hard, used)})


RAISE = "raise it, request less, or delete other pods; see kubectl -n ml describe resourcequota q"
GPUS = {"requests.nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("quotas_of", "pods", "expected"),
    [
        pytest.param([], PODS, [(OK, "there is none")], id="no quota"),
        pytest.param(
            [quota("2", **GPUS)],
            PODS,
            [(OK, "the quota of the namespace does not matter: no pod is missing")],
            id="full, and all pods are there",
        ),
        pytest.param(
            [quota("2", **GPUS)],
            PODS[:3],
            [
                (
                    *(
                        WARNING,
                        "the quota q has room for 0 of 1 missing pod: 2 of 2 requests.nvidia.com/gpu used, and a pod",
                    ),
                    RAISE,
                )
            ],
            id="MIN nodes are there",
        ),
        pytest.param(
            [quota("1", **GPUS)],
            PODS[:1],
            [
                (
                    *(
                        FAILED,
                        "the quota q has room for 1 of 3 missing pods: 1 of 2 requests.nvidia.com/gpu used, and a pod",
                    ),
                    RAISE,
                )
            ],
            id="fewer than MIN nodes fit",
        ),
        pytest.param(
            [quota("0", **{"requests.nvidia.com/gpu": "8"})],
            (),
            [(OK, "the quota of the namespace has room for the missing pods")],
            id="room for all",
        ),
    ],
)
def test_quota(quotas_of: list[Any], pods: tuple[Any, ...], expected: list[Row]) -> None:
    rows = [(row[0], f"{row[1]} needs 1" if row[1].endswith("a pod") else row[1], *row[2:]) for row in expected]
    check(quotas, case(job(), resourcequotas=tuple(quotas_of), pods=pods), *rows)


def test_a_quota_that_demands_limits() -> None:
    found = case(job(), resourcequotas=(quota("0", **{"limits.cpu": "90"}),), pods=(host(),))
    advice = "set resources in spec.template, or let a LimitRange do; see kubectl -n ml describe resourcequota q"
    check(quotas, found, (FAILED, "the quota q rejects pods that do not set limits.cpu in each container", advice))
    defaults = named("LimitRange", "l", spec={"limits": [{"type": "Container", "default": {"cpu": "3"}}]})
    found = case(job(), resourcequotas=(quota("0", **{"limits.cpu": "90"}),), pods=(host(),), limitranges=(defaults,))
    check(quotas, found, (OK, "the quota of the namespace has room for the missing pods"))


@pytest.mark.parametrize(
    ("scope", "level"),
    [
        pytest.param({"scopes": ["NotTerminating"]}, FAILED, id="counts"),
        pytest.param({"scopes": ["Terminating"]}, OK, id="about pods with a deadline"),
        pytest.param({"scopes": ["BestEffort"]}, OK, id="about pods without requests"),
        pytest.param(
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["p"]}]
                }
            },
            OK,
            id="about another priority",
        ),
    ],
)
def test_scopes_of_a_quota(scope: dict[str, Any], level: Level) -> None:
    full = quota("1", pods="1") | {"spec": scope}
    assert [each.level for each in quotas(case(job(), resourcequotas=(full,), pods=()), "c")] == [level]


def test_a_quota_without_room_for_the_claim() -> None:
    claim = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}}}
    found = job(snapshots={"volumeClaimTemplate": claim})
    words = "the quota q has no room for the claim digits-snapshots: 0 of 5Gi requests.storage used, and it needs 10Gi"
    advice = "raise it, or ask for less in spec.snapshots; see kubectl -n ml describe resourcequota q"
    full = quota("0", **{"requests.storage": "5Gi"})
    check(quotas, case(found, resourcequotas=(full,), pods=()), (FAILED, words, advice))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(
            {"type": "Container", "max": {"memory": "2Gi"}},
            ["container trainer has a limit of 4Gi memory, more than 2Gi"],
            id="more than the maximum",
        ),
        pytest.param(
            {"type": "Container", "min": {"cpu": "4"}},
            ["container trainer requests 2 cpu, less than 4"],
            id="too small",
        ),
        pytest.param(
            {"type": "Pod", "max": {"cpu": "4"}}, ["the pod has no limit of cpu; at most 4"], id="without a limit"
        ),
    ],
)
def test_limit_ranges(limits: dict[str, Any], expected: list[str]) -> None:
    found = named("LimitRange", "l", spec={"limits": [limits]})
    advice = "change resources in spec.template; see kubectl -n ml describe limitrange l"
    rows = [(FAILED, f"the LimitRange l rejects pods: {words}", advice) for words in expected]
    check(limit_ranges, case(job(), pods=(host(),), limitranges=(found,)), *rows)
    check(limit_ranges, case(job(), limitranges=(found,)), (OK, "they accept the pods of the job"))


ENFORCED = "pod-security.kubernetes.io/enforce"
HARDENED = {
    "securityContext": {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}


@pytest.mark.parametrize(
    ("level", "found", "expected"),
    [
        pytest.param(None, job(), [(OK, "the namespace enforces no level")], id="none"),
        pytest.param("baseline", job(), [(OK, "the pods keep the level baseline of the namespace")], id="baseline"),
        pytest.param(
            "restricted",
            with_trainer(job(), **HARDENED),
            [(OK, "the pods keep the level restricted of the namespace")],
            id="restricted",
        ),
        pytest.param(
            "baseline",
            with_template(job(), hostIPC=True, volumes=[{"name": "d", "hostPath": {"path": "/data"}}]),
            [
                (
                    *(
                        FAILED,
                        "the namespace enforces baseline, which rejects the pods: hostIPC; volume d is a hostPath",
                    ),
                    f"change spec.template, or run the job in a namespace with another label {ENFORCED}",
                )
            ],
            id="host",
        ),
    ],
)
def test_pod_security(level: str | None, found: dict[str, Any], expected: list[Row]) -> None:
    namespace = named("Namespace", "ml", metadata={"labels": {ENFORCED: level} if level else {}})
    check(pod_security, case(found, namespaces=(namespace,), pods=()), *expected)


def policy(name: str, **spec_of: Any) -> dict[str, Any]:
    return named("NetworkPolicy", name, spec={"podSelector": {}, **spec_of})


OPEN = "let spec.networkPolicy be true, or add a policy that admits this; see docs/security.md"
NODES = "the connections between the nodes"
STORE = "the connections of the nodes to the rendezvous pod, port 29400"
CONTROL = "the connections of the operator to the rendezvous pod, port 29401"
SAME = {"podSelector": {"matchLabels": {"torchrun.dev/job-name": "digits"}}}


@pytest.mark.parametrize(
    ("own", "policies", "expected"),
    [
        pytest.param(True, [], [(OK, "no policies of others in the namespace")], id="none"),
        pytest.param(
            True,
            [policy("deny", policyTypes=["Ingress", "Egress"])],
            [(OK, "deny leaves the connections of the job open")],
            id="those of the operator admit what it needs",
        ),
        pytest.param(
            False,
            [policy("deny", policyTypes=["Ingress"])],
            [(FAILED, f"deny would close {words}", OPEN) for words in (NODES, STORE, CONTROL)],
            id="all is closed",
        ),
        pytest.param(
            False,
            [policy("deny", policyTypes=["Ingress"]), policy("same", ingress=[{"from": [{"podSelector": {}}]}])],
            [(FAILED, f"deny, same would close {CONTROL}", OPEN)],
            id="policies add up",
        ),
        pytest.param(
            False,
            [policy("egress", policyTypes=["Egress"], egress=[{"to": [SAME], "ports": [{"port": 29400}]}])],
            [(FAILED, f"egress would close {NODES}", OPEN)],
            id="only the store is open",
        ),
        pytest.param(
            False,
            [
                policy(
                    "range",
                    policyTypes=["Egress"],
                    egress=[{"to": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.9.0/24"]}}]}],
                )
            ],
            [(OK, "range leaves the connections of the job open")],
            id="addresses",
        ),
        pytest.param(
            False,
            [policy("other", podSelector={"matchLabels": {"app": "web"}})],
            [(OK, "other leaves the connections of the job open")],
            id="about other pods",
        ),
    ],
)
def test_network(policies: list[Any], expected: list[Row], *, own: bool) -> None:
    check(network, case(job(networkPolicy=own), networkpolicies=tuple(policies)), *expected)
