"""The rules of chaos-membership about healthy pods and memory, and the hostile rendezvous host."""

from dataclasses import replace
from typing import Any

import pytest

from chaos.membership import hostile_host
from chaos.membership.accounts import expected
from chaos.membership.healthy import MOST_MIB, healthy_pods_stay, memory_is_bounded
from chaos.membership.hostile import usurped
from chaos.membership.pauses import prevented
from chaos.membership.plan import Kind, planned
from chaos.membership.records import Fault, Group, Pod, Sample, Start, Step
from torchrun_rendezvous.protocol import RendezvousState

A, B = "10.0.1.2:40001", "10.0.1.3:40002"


def pod(index: int, **values: Any) -> Pod:
    return replace(Pod(f"job-{index}", f"u{index}", index, "node1", "Running"), **values)


HOST = Pod("job-rdzv", "uh", None, "node3", "Running")
PODS = (pod(0), pod(1, machine="node2"))


def sample(at: float, *nodes: Pod, **values: Any) -> Sample:
    return Sample(**{"time": at, "wanted": 2, "nodes": nodes, "host": HOST, **values})


STARTS = [Start(0.0, "job-0", 7, 0, 2, A, "u", 0), Start(0.0, "job-1", 7, 1, 2, A, "u", 0)]
STEPS = [Step(10.0 + n, A, n + 1, 0, 2) for n in range(11)]  # until 20 s


def fault(kind: Kind, at: float = 19.0, **values: Any) -> Fault:
    return Fault(**{"number": 1, "kind": kind, "time": at, "until": at, "target": "", "group": 1, **values})


GONE = [sample(20.0, *PODS), sample(20.7, PODS[0])]
TERMINATING = [sample(20.0, *PODS), sample(20.7, PODS[0], replace(PODS[1], terminating=True))]


@pytest.mark.parametrize(
    ("samples", "faults", "wrong"),
    [
        ([sample(20.0, *PODS), sample(20.7, *PODS)], [], 0),
        (GONE, [], 1),
        (TERMINATING, [], 1),
        (GONE, [fault(Kind.DELETE_NOW, hits=("u1",))], 0),
        (GONE, [fault(Kind.DELETE_NOW, hits=("u0",))], 1),
        (GONE, [fault(Kind.KILL_OPERATOR)], 1),
        (GONE, [fault(Kind.SILENT_KUBELET, 0.0, until=60.0, target="node2 for 60 s")], 1),  # It was heard.
        (GONE, [fault(Kind.SILENT_HALF, 0.0, until=60.0, target="node2 and node3 for 60 s")], 1),
        (GONE, [fault(Kind.STOP_MACHINE, 0.0, until=15.0, target="node2 for 15 s")], 0),
        (GONE, [fault(Kind.STOP_MACHINE, 0.0, until=15.0, target="node3 for 15 s")], 0),  # The rendezvous host.
        (GONE, [fault(Kind.STOP_MACHINE, 0.0, until=15.0, target="node1 for 15 s")], 1),
        (GONE, [fault(Kind.KILL_HOST)], 0),
        (GONE, [fault(Kind.KILL_HOST, -20.0)], 1),  # That is over.
        ([replace(one, cut=frozenset({"node2"})) for one in GONE], [], 0),
        ([GONE[0], replace(GONE[1], wanted=1)], [fault(Kind.SCALE)], 0),
        ([sample(23.1, *PODS), sample(23.8, PODS[0])], [], 0),  # It was not heard for seconds.
        ([sample(20.0, PODS[0], replace(PODS[1], phase="Failed")), GONE[1]], [], 0),
        ([sample(20.0, PODS[0], replace(PODS[1], phase="Pending")), GONE[1]], [], 0),
        ([TERMINATING[1], GONE[1]], [], 0),
        ([sample(20.0, *PODS), sample(20.7)], [], 2),
    ],
)
def test_healthy_pods_stay(samples: list[Sample], faults: list[Fault], wrong: int) -> None:
    found = healthy_pods_stay(samples, STARTS, STEPS, faults)
    assert [violation.rule for violation in found] == ["healthy"] * wrong


def test_a_pod_of_an_ended_round_was_not_heard() -> None:
    later = [*STARTS, Start(18.0, "job-1", 8, 1, 2, B, "u", 1)]
    assert healthy_pods_stay(GONE, later, STEPS, []) == []
    assert len(healthy_pods_stay(GONE, later, [*STEPS, Step(19.5, B, 12, 11, 2)], [])) == 1


@pytest.mark.parametrize(("sizes", "wrong"), [((), 0), ((0,), 0), ((MOST_MIB, 90), 0), ((90, MOST_MIB + 1, 90), 1)])
def test_memory_is_bounded(sizes: tuple[int, ...], wrong: int) -> None:
    found = memory_is_bounded([sample(float(at), operator_mib=size) for at, size in enumerate(sizes)])
    assert [violation.rule for violation in found] == ["memory"] * wrong


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (sample(0.0, *PODS, blocked=True), False),
        (sample(0.0, PODS[0], blocked=True), True),
        (sample(0.0, PODS[0]), False),
        (sample(0.0, PODS[0], replace(PODS[1], terminating=True), blocked=True), True),
        (sample(0.0, *PODS, blocked=True, host=None), True),
        (sample(0.0, *PODS, blocked=True, silent=frozenset({"node2"})), True),
        (sample(0.0, *PODS, blocked=True, silent=frozenset({"node2"}), unready=frozenset({"node2"})), False),
        (sample(0.0, *PODS, operator_runs=False), False),
        (sample(0.0, PODS[0], operator_runs=False), True),
        (sample(0.0, *PODS, operator_runs=False, host=None), True),
        (sample(0.0, *PODS, silent=frozenset({"node2"})), True),
        (sample(0.0, *PODS, wanted=3, silent=frozenset({"node2"})), False),
    ],
)
def test_only_running_pods_count_while_no_new_one_can_start(given: Sample, result: bool) -> None:
    assert prevented(given) is result


@pytest.mark.parametrize(
    ("of", "bounds"),
    [
        (fault(Kind.FAIL_AT_ONCE, failures=3), {"code": (3, 3)}),
        (fault(Kind.KILL_SIDECAR), {}),
        (fault(Kind.QUOTA), {}),
        (fault(Kind.DELETE_SECRET), {}),
        (fault(Kind.DELETE_CLAIM), {}),
        (fault(Kind.SILENT_KUBELET), {}),
        (fault(Kind.SILENT_HALF), {}),
        (fault(Kind.STUCK, hits=("u1",), recorded=("u1",)), {"infrastructure": (1, 1)}),
        (fault(Kind.FREEZE_OPERATOR), {}),
        (fault(Kind.FREEZE_HOST), {"infrastructure": (0, 1)}),
        (fault(Kind.HOSTILE), {}),
    ],
)
def test_restarts_expected_of_a_fault(of: Fault, bounds: dict[str, tuple[int, int]]) -> None:
    none = {"code": (0, 0), "infrastructure": (0, 0), "preemption": (0, 0), "resize": (0, 0)}
    assert expected(Group((of,), {}, {}, ended=1)) == none | bounds


def test_only_the_chosen_kinds_are_drawn() -> None:
    faults = planned(7, [Kind.QUOTA, Kind.STUCK])
    assert {next(faults).kind for _ in range(50)} == {Kind.QUOTA, Kind.STUCK}


def test_the_news_of_the_hostile_host_are_valid_and_new() -> None:
    first, second = (RendezvousState.read(hostile_host.news()) for _ in range(2))
    assert second.version > first.version


def test_a_usurped_pod_is_that_of_the_operator_with_another_program() -> None:
    owner = [{"kind": "TorchrunJob", "name": "hostile", "uid": "u", "controller": True}]
    container = {"name": "rendezvous", "image": "i", "command": ["sh"], "args": ["x"], "readinessProbe": {}}
    made = {
        "kind": "Pod",
        "metadata": {"name": "hostile-rdzv", "uid": "v", "resourceVersion": "1", "labels": {"a": "b"},
                     "ownerReferences": owner},
        "spec": {"nodeName": "node1", "containers": [container], "volumes": []},
        "status": {"phase": "Running"},
    }  # fmt: skip
    assert usurped(made, "print(1)") == {
        "kind": "Pod",
        "metadata": {"name": "hostile-rdzv", "labels": {"a": "b"}, "ownerReferences": owner},
        "spec": {
            "containers": [{"name": "rendezvous", "image": "i", "command": ["python3", "-c", "print(1)"]}],
            "volumes": [],
        },
        "status": {},
    }
