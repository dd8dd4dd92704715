"""Whether Kubernetes nodes have room for the pods of a job."""

from typing import Any

import pytest

from doctor_jobs import FAILED, OK, PODS, WARNING, Row, case, computer, host, job, pod, with_template
from torchrun_cli.doctor.findings import Finding
from torchrun_cli.doctor.room import room

FREE = "free capacity, request less in spec.template, correct nodeSelector or tolerations, or lower spec.replicas"
TAINT = {"key": "infra", "value": "yes", "effect": "NoSchedule"}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "message": "no affinity"}
NOT_CHECKED = "pod affinity, topology spread, host ports and the zones of volumes are not checked here: read its words"


ROOM = [
    pytest.param(job(), PODS, (), [(OK, "every pod has a Kubernetes node")], id="all have one"),
    pytest.param(
        job(), (), (computer("w1"),), [(OK, "Kubernetes nodes have room for 4 waiting pods")], id="room for all"
    ),
    pytest.param(
        job(),
        PODS[:3],
        (
            computer("w1", 2),
            computer("w2", 0),
            computer("w3", taints=[TAINT]),
            computer("w4", unschedulable=True),
            computer("w5", ready="Unknown"),
            computer("w6", cpu="1"),
        ),
        [
            (
                *(WARNING, "no Kubernetes node has room for 1 of 1 waiting pod; for digits-2:", FREE),
                (
                    "w1: lacks nvidia.com/gpu: 0 free, 1 requested",
                    "w2: lacks nvidia.com/gpu: 0 free, 1 requested",
                    "w3: has the taint infra=yes:NoSchedule",
                    "w4: is cordoned",
                    "w5: is not ready",
                    "w6: lacks cpu: 1 free, 2 requested",
                ),
            )
        ],
        id="each lacks something else",
    ),
    pytest.param(
        with_template(job(), nodeSelector={"pool": "a"}),
        (host(),),
        (computer("w1"), computer("w2")),
        [
            (
                *(FAILED, "no Kubernetes node has room for 3 of 3 waiting pods; for digits-0:", FREE),
                ("w1, w2: has no label pool=a",),
            )
        ],
        id="a selector",
    ),
    pytest.param(
        with_template(job(), tolerations=[{"key": "infra", "operator": "Exists"}]),
        (host(),),
        (computer("w1", taints=[TAINT, {"key": "nvidia.com/gpu", "effect": "NoSchedule"}]),),
        [(OK, "Kubernetes nodes have room for 3 waiting pods")],
        id="tolerated",
    ),
    pytest.param(
        job(),
        (*PODS[:3], pod("2", on=None, phase="Pending", conditions=[UNSCHEDULABLE])),
        (computer("w2"),),
        [
            (
                WARNING,
                "by requests, taints and labels there is room; the scheduler says of digits-2: no affinity",
                NOT_CHECKED,
            )
        ],
        id="the scheduler knows better",
    ),
    pytest.param(
        job(),
        (host(),),
        (),
        [(FAILED, "the cluster has no Kubernetes nodes", FREE)],
        id="no Kubernetes nodes",
    ),
]


@pytest.mark.parametrize(("found", "pods", "computers", "expected"), ROOM)
def test_room(found: dict[str, Any], pods: tuple[Any, ...], computers: tuple[Any, ...], expected: list[Row]) -> None:
    rows = [(*row[:2], row[2] if len(row) > 2 else "", *row[3:]) for row in expected]
    placed = tuple(each for each in pods if each["spec"].get("nodeName"))
    got = list(room(case(found, pods=pods, nodes=computers, allpods=placed), "c"))
    merged = [each._replace(details=_apart(each.details)) for each in got]
    assert merged == [each._replace(details=_apart(each.details)) for each in (Finding("c", *row) for row in rows)]


def _apart(details: tuple[str, ...]) -> tuple[str, ...]:
    """Return a line for each Kubernetes node."""
    return tuple(
        sorted(
            f"{name}: {why}"
            for line in details
            for names, _, why in [line.partition(": ")]
            for name in names.split(", ")
        )
    )


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["3"]}]}, True),
        ({"matchExpressions": [{"key": "gen", "operator": "Lt", "values": ["3"]}]}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w2"]}]}, False),
        ({}, False),
    ],
)
def test_node_affinity(term: dict[str, Any], *, fits: bool) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    found = with_template(job(), affinity={"nodeAffinity": required})
    lists = {"pods": (host(),), "allpods": (), "nodes": (computer("w1", labels={"pool": "a", "gen": "4"}),)}
    assert [each.level is OK for each in room(case(found, **lists), "c")] == [fits]
