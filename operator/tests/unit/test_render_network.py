"""The NetworkPolicies of a job, beside those that others have in its namespace."""

from typing import Any

import pytest

from builders import make_job
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.namespace import NamespaceRules
from torchrun_operator.render.objects import prerequisites, unwanted
from torchrun_operator.render.programs import Programs

PROGRAMS = Programs(rendezvous=b"", launcher=b"", transfer=b"")
OWN = {"podSelector": {"matchLabels": {"torchrun.dev/job-name": "digits"}}}
OPERATOR = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "torchrun-system"}},
    "podSelector": {"matchLabels": {"torchrun.dev/component": "operator"}},
}
LABELLED = {"metadata": {"labels": {"team": "vision"}}}


def policies(*others: Any, namespace: str | None = "torchrun-system", **spec: Any) -> dict[str, Any]:
    """Return the specs of the job's policies, by name, where others exist."""
    rules = NamespaceRules(network_policies=others)
    found = [each for each in prerequisites(make_job(**spec), PROGRAMS, namespace, rules) if is_policy(each)]
    return {policy["metadata"]["name"]: policy["spec"] for policy in found}


def is_policy(manifest: Any) -> bool:
    return bool(manifest["kind"] == "NetworkPolicy")


def other(selector: Any, name: str = "theirs", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": selector, **spec}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": [*values]} if values else {})}]}


def test_only_the_job_reaches_its_pods_and_only_the_operator_the_control_port_as_well() -> None:
    assert policies(rendezvous={"port": 30000}) == {
        "digits-rdzv": {
            "podSelector": {"matchLabels": {"torchrun.dev/job-name": "digits", "torchrun.dev/role": "rendezvous"}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [OWN], "ports": [{"port": 30000, "protocol": "TCP"}]},
                {"from": [OWN, OPERATOR], "ports": [{"port": 29401, "protocol": "TCP"}]},
            ],
        },
        "digits-nodes": {
            "podSelector": {"matchLabels": {"torchrun.dev/job-name": "digits", "torchrun.dev/role": "node"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [OWN]}],
        },
    }


def test_an_operator_that_does_not_know_where_it_runs_is_admitted_from_everywhere() -> None:
    assert policies(namespace=None)["digits-rdzv"]["ingress"][1] == {"ports": [{"port": 29401, "protocol": "TCP"}]}


def test_without_the_field_there_is_no_policy() -> None:
    assert policies(networkPolicy=False) == {}
    assert unwanted(make_job()) == []
    gone = unwanted(make_job(networkPolicy=False))
    assert [(each["kind"], each["metadata"]["name"]) for each in gone] == [
        ("NetworkPolicy", "digits-rdzv"),
        ("NetworkPolicy", "digits-nodes"),
    ]


STATIC: dict[str, Any] = {"nnodes": 2, "replicas": 2, "rendezvous": {"backend": "static"}}
LEFT: dict[str, tuple[TorchrunJob, list[str]]] = {
    "a static job": (make_job(**STATIC), []),
    "a job that was scaled": (make_job(generation=2), ["ConfigMap digits-hosts"]),
    "a job that became static": (
        make_job(generation=2, **STATIC),
        ["Service digits-rdzv", "ConfigMap digits-rdzv", "NetworkPolicy digits-rdzv"],
    ),
    "a job that became static, with programs for its outputs": (
        make_job(generation=2, **STATIC, outputs=[{"path": "/a", "url": "pvc://b"}]),
        ["Service digits-rdzv", "NetworkPolicy digits-rdzv"],
    ),
}


@pytest.mark.parametrize(("job", "names"), LEFT.values(), ids=LEFT)
def test_what_an_earlier_backend_may_have_left(job: TorchrunJob, names: list[str]) -> None:
    assert sorted(f"{each['kind']} {each['metadata']['name']}" for each in unwanted(job)) == sorted(names)


@pytest.mark.parametrize(
    ("theirs", "restricted"),
    [
        pytest.param(other({}, policyTypes=["Ingress"]), False, id="denies what comes in"),
        pytest.param(other({}), False, id="says nothing: what comes in"),
        pytest.param(other({}, policyTypes=["Egress"]), True, id="denies what goes out"),
        pytest.param(other({}, policyTypes=["Ingress", "Egress"]), True, id="denies all"),
        pytest.param(other({}, egress=[{"ports": [{"port": 443}]}]), True, id="admits some of what goes out"),
        pytest.param(other({"matchLabels": {"team": "vision"}}, policyTypes=["Egress"]), True, id="its label"),
        pytest.param(other({"matchLabels": {"team": "speech"}}, policyTypes=["Egress"]), False, id="another label"),
        pytest.param(
            other({"matchLabels": {"torchrun.dev/role": "node"}}, policyTypes=["Egress"]),
            True,
            id="the nodes",
        ),
        pytest.param(
            other({"matchLabels": {"torchrun.dev/role": "rendezvous"}}, policyTypes=["Egress"]),
            False,
            id="the host",
        ),
        pytest.param(other(expression("team", "In", "a", "vision"), policyTypes=["Egress"]), True, id="in"),
        pytest.param(other(expression("team", "In", "a"), policyTypes=["Egress"]), False, id="not among them"),
        pytest.param(other(expression("team", "NotIn", "a"), policyTypes=["Egress"]), True, id="not in"),
        pytest.param(other(expression("team", "Exists"), policyTypes=["Egress"]), True, id="exists"),
        pytest.param(other(expression("tier", "DoesNotExist"), policyTypes=["Egress"]), True, id="does not exist"),
        pytest.param(other(expression("team", "DoesNotExist"), policyTypes=["Egress"]), False, id="but it exists"),
        pytest.param(other({}, name="digits-nodes", policyTypes=["Egress"]), False, id="the policy of this job"),
    ],
)
def test_where_others_restrict_what_nodes_may_reach_they_reach_each_other_and_dns(
    theirs: dict[str, Any], restricted: bool
) -> None:
    """Where nobody does, the policy must not mention it: it would cut the nodes off from their data."""
    template = {**LABELLED, "spec": make_job().spec.template["spec"]}
    spec = policies(theirs, template=template)["digits-nodes"]
    assert spec["policyTypes"] == (["Ingress", "Egress"] if restricted else ["Ingress"])
    assert ("egress" in spec) is restricted
    if restricted:
        peers, dns = spec["egress"]
        assert peers == {"to": [OWN]}
        assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {
            (53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP"),
        }  # fmt: skip
        assert {"ipBlock": {"cidr": "0.0.0.0/0"}} not in dns["to"]


@pytest.mark.parametrize(
    ("theirs", "restricted"),
    [
        pytest.param(other({}, policyTypes=["Egress"]), True, id="all pods"),
        pytest.param(other({}, policyTypes=["Ingress"]), False, id="what comes in"),
        pytest.param(
            other({"matchLabels": {"torchrun.dev/role": "rendezvous"}}, policyTypes=["Egress"]), True, id="the host"
        ),
        pytest.param(
            other({"matchLabels": {"torchrun.dev/role": "node"}}, policyTypes=["Egress"]), False, id="the nodes"
        ),
        pytest.param(other(expression("torchrun.dev/node-index", "Exists"), policyTypes=["Egress"]), False, id="index"),
        pytest.param(other({"matchLabels": {"part": "host"}}, policyTypes=["Egress"]), True, id="its own label"),
        pytest.param(other({}, name="digits-rdzv", policyTypes=["Egress"]), False, id="the policy of this job"),
    ],
)
def test_where_others_restrict_what_the_host_may_reach_it_reaches_dns(theirs: dict[str, Any], restricted: bool) -> None:
    """It looks up the names of the agents that connect, and would wait for each answer in vain."""
    found = policies(theirs, rendezvous={"template": {"metadata": {"labels": {"part": "host"}}}})
    spec = found["digits-rdzv"]
    assert spec["policyTypes"] == (["Ingress", "Egress"] if restricted else ["Ingress"])
    assert ("egress" in spec) is restricted
    if restricted:
        dns = policies(other({}, policyTypes=["Egress"]))["digits-nodes"]["egress"][1]
        assert spec["egress"] == [dns]
