"""Which pods are lost with their Kubernetes nodes: what is heard, for how long, and how many are silent at once."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, at, job_manifest, make_job
from torchrun_operator.core.facts.hearing import LEAST_ATTEMPTS, SILENT_SECONDS, Hearing, heard
from torchrun_operator.core.facts.lost import tolerates_silence
from torchrun_operator.core.facts.machines import Machines, Silence, believed_in
from torchrun_operator.core.facts.model import Facts, Phase
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.rendezvous.ears import Ears
from torchrun_rendezvous.protocol import Member, RendezvousState

UNREACHABLE = "node.kubernetes.io/unreachable"
OFF = "node.kubernetes.io/out-of-service"
HEARD = RendezvousState("aa", round=1, complete=True, members=(Member("10.0.0.1", 0),), silent=())
UNHEARD = replace(HEARD, members=())
DELETED = {"deletionTimestamp": "2026-01-31T11:30:00Z"}
LONG = Hearing(connected_seconds=600.0)
DEAF = Hearing(attempts=9, host_seconds=600.0)
NEW = Hearing()


def pod(name: str, machine: str | None, *, deleted: bool = False, role: str = "node", phase: str = "Running") -> Any:
    index = name.rpartition("-")[2]
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {"torchrun.dev/role": role, "torchrun.dev/node-index": index},
            "ownerReferences": [{"uid": "job-uid", "controller": True}],
            **(DELETED if deleted else {}),
        },
        "spec": {"nodeName": machine} if machine else {},
        "status": {"phase": phase, "podIP": "10.0.0.9" if role == "rendezvous" else f"10.0.0.{index}"},
    }


def host(machine: str = "m9", **changes: Any) -> Any:
    return pod("digits-rdzv", machine, role="rendezvous", **changes)


NODE = pod("digits-1", "m1")
GOING = pod("digits-1", "m1", deleted=True)
SILENT: Any = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
REMOVED = None
TAINTED: Any = {**SILENT, "spec": {"taints": [{"key": OFF, "effect": "NoExecute"}]}}


def look(
    *pods: Any,
    state: RendezvousState | None,
    hearing: Hearing,
    machine: Any = SILENT,
    silent: dict[str, Silence] | None = None,
    **spec: Any,
) -> Facts:
    """Return the facts where the Kubernetes nodes m1 and m2 are in that state."""
    machines = Machines({"m1": machine, "m2": machine}, True, {"": 100}, silent or {})
    return gather(make_job(**spec), NOW, pods, state, machines=machines, hearing=hearing)


class Case(NamedTuple):
    node: Any
    others: tuple[Any, ...]
    state: RendezvousState | None
    hearing: Hearing
    machine: Any
    lost: bool
    again: float | None = None
    """When to look again, in seconds."""


NODES: dict[str, Case] = {
    "its agent is heard": Case(NODE, (host(),), HEARD, LONG, SILENT, False),
    "its agent is heard, and Kubernetes evicts it": Case(GOING, (host(),), HEARD, LONG, SILENT, False),
    "its agent is heard, and its Kubernetes node was removed": Case(NODE, (host(),), HEARD, LONG, REMOVED, False),
    "its agent is heard, and its Kubernetes node is off": Case(NODE, (host(),), HEARD, LONG, TAINTED, True),
    "its agent has not been heard for long": Case(NODE, (host(),), UNHEARD, LONG, SILENT, True),
    "the operator has just connected": Case(
        NODE, (host(),), UNHEARD, Hearing(connected_seconds=1.0), SILENT, False, 19.0
    ),
    "its agent was heard a moment ago": Case(
        NODE, (host(),), UNHEARD, Hearing(connected_seconds=600.0, agents={"10.0.0.1": 4.0}), SILENT, False, 16.0
    ),
    "its agent was heard, long ago": Case(
        NODE, (host(),), UNHEARD, Hearing(connected_seconds=600.0, agents={"10.0.0.1": 20.0}), SILENT, True
    ),
    "the operator has just started": Case(NODE, (host(),), None, NEW, SILENT, False),
    "the operator has just started, the Kubernetes node was removed": Case(NODE, (host(),), None, NEW, REMOVED, False),
    "the operator has just started, the Kubernetes node is off": Case(NODE, (host(),), None, NEW, TAINTED, True),
    "a host that runs does not answer, for however long": Case(NODE, (host(),), None, DEAF, SILENT, False),
    "such a host, and Kubernetes evicts the pod": Case(GOING, (host(),), None, DEAF, SILENT, True),
    "such a host for a moment, and Kubernetes evicts the pod": Case(
        GOING, (host(),), None, Hearing(attempts=9, host_seconds=5.0), SILENT, False, 15.0
    ),
    "no host exists": Case(NODE, (), None, NEW, SILENT, True),
    "the host starts": Case(NODE, (host(phase="Pending"),), None, NEW, SILENT, True),
    "the host is being deleted": Case(NODE, (host(deleted=True),), None, NEW, SILENT, True),
    "the host is lost as well": Case(NODE, (host("m2"),), None, DEAF, SILENT, True),
    "the host may be lost as well": Case(NODE, (host("m2"),), None, NEW, SILENT, False, 20.0),
}


@pytest.mark.parametrize("case", NODES.values(), ids=NODES)
def test_a_node_on_a_kubernetes_node_in_trouble(case: Case) -> None:
    found = look(case.node, *case.others, state=case.state, hearing=case.hearing, machine=case.machine)
    wanted = Phase.LOST if case.lost else Phase.TERMINATING if case.node is GOING else Phase.RUNNING
    assert (found.nodes[0].phase, found.judged_at) == (wanted, None if case.again is None else at(case.again))


HOSTS: dict[str, tuple[Any, RendezvousState | None, Hearing, Any, bool, float | None]] = {
    # name: the rendezvous pod, the state document, what was heard, its Kubernetes node, lost, when to look again
    "it answers": (host("m1"), HEARD, LONG, SILENT, False, None),
    "it answers, off": (host("m1"), HEARD, LONG, TAINTED, True, None),
    "the operator has just started": (host("m1"), None, NEW, SILENT, False, 20.0),
    "the operator has just started, removed": (host("m1"), None, NEW, REMOVED, False, 20.0),
    "the operator has just started, off": (host("m1"), None, NEW, TAINTED, True, None),
    "silent for a moment": (host("m1"), None, Hearing(9, 4.0), SILENT, False, 16.0),
    "silent for long": (host("m1"), None, DEAF, SILENT, True, None),
    "silent for long, but the operator stood still": (host("m1"), None, Hearing(1, 600.0), SILENT, False, 2.0),
    "it never started": (host("m1", phase="Pending"), None, NEW, SILENT, True, None),
    "evicted": (host("m1", deleted=True), None, NEW, SILENT, True, None),
}


@pytest.mark.parametrize(("raw", "state", "hearing", "machine", "lost", "again"), HOSTS.values(), ids=HOSTS)
def test_a_rendezvous_host_on_a_kubernetes_node_in_trouble(
    raw: Any, state: RendezvousState | None, hearing: Hearing, machine: Any, lost: bool, again: float | None
) -> None:
    found = look(raw, state=state, hearing=hearing, machine=machine)
    assert found.rendezvous_pod is not None
    assert (found.rendezvous_pod.phase is Phase.LOST, found.judged_at) == (lost, None if again is None else at(again))


def silent(*since: float, seen: float = 0.0, zone: str = "") -> dict[str, Silence]:
    return {f"m{number}": Silence(zone, moment, seen) for number, moment in enumerate(since, 1)}


FLEETS: dict[str, tuple[dict[str, int], dict[str, Silence], dict[str, float]]] = {
    # name: Kubernetes nodes by zone, the silent ones, the seconds until the operator believes others gone
    "none": ({"": 9}, {}, {}),
    "one": ({"": 9}, silent(1000), {}),
    "one of two": ({"": 2}, silent(1000), {}),
    "the only one": ({"": 1}, silent(1000), {}),
    "two in one moment": ({"": 9}, silent(1000, 1000), {"m2": 10.0}),
    "two, seen for a while": ({"": 9}, silent(1000, 1000, seen=7), {"m2": 3.0}),
    "two, seen for long": ({"": 9}, silent(1000, 1000, seen=10), {}),
    "two, long after each other": ({"": 9}, silent(1000, 5000), {}),
    "three in one moment": ({"": 99}, silent(1000, 1001, 1002), {"m2": 8.0, "m3": 18.0}),
    "many dead ones do not delay another": ({"": 99}, silent(*range(1000, 1400, 10), 5000), {}),
    "half of the cluster": ({"": 6}, silent(1000, 1000, 1000), {"m2": 60.0, "m3": 120.0}),
    "a third of the cluster": ({"": 6}, silent(1000, 1000), {"m2": 60.0}),
    "less than a third of the cluster": ({"": 7}, silent(1000, 1000), {"m2": 10.0}),
    "two of four": ({"": 4}, silent(1000, 1005), {"m2": 55.0}),
    "a third of a zone": ({"a": 6, "b": 50}, silent(1000, 1000, zone="a"), {"m2": 60.0}),
    "a small part of each zone": (
        {"a": 9, "b": 9},
        {**silent(1000, zone="a"), "m2": Silence("b", 1000, 0)},
        {"m2": 10.0},
    ),
}


@pytest.mark.parametrize(("zones", "silences", "expected"), FLEETS.values(), ids=FLEETS)
def test_kubernetes_nodes_that_fall_silent_together_are_believed_gone_one_by_one(
    zones: dict[str, int], silences: dict[str, Silence], expected: dict[str, float]
) -> None:
    assert believed_in(Machines({}, True, zones, silences)) == expected


@given(
    since=st.lists(st.integers(min_value=0, max_value=300), min_size=1, max_size=40),  # a sum keeps their order
    skew=st.sampled_from([0.0, 10.0, -10.0, 60.0, -60.0, 3600.0, -3600.0]),
    seen=st.floats(min_value=0, max_value=300),
    total=st.integers(min_value=20, max_value=200),
)
def test_the_clock_of_the_cluster_does_not_matter_and_few_are_believed_gone_at_once(
    since: list[int], skew: float, seen: float, total: int
) -> None:
    waits = believed_in(Machines({}, True, {"": total}, silent(*since, seen=seen)))
    shifted = believed_in(Machines({}, True, {"": total}, silent(*[s + skew for s in since], seen=seen)))
    assert shifted == pytest.approx(waits, abs=1e-6)
    elapsed = max(since) + seen - min(since)
    assert len(since) - len(waits) <= 1 + elapsed / 10


def test_a_pod_waits_until_its_kubernetes_node_is_believed_gone() -> None:
    pods = (pod("digits-1", "m1"), pod("digits-2", "m2"), pod("digits-3", "m2", deleted=True), host())
    found = look(*pods, state=UNHEARD, hearing=LONG, silent=silent(1000, 1000))
    assert [node.phase for node in found.nodes] == [Phase.LOST, Phase.RUNNING, Phase.LOST]
    assert found.judged_at == at(10)


TOLERATIONS: dict[str, tuple[list[Any], bool]] = {
    "none": ([], False),
    "another": ([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}], False),
    "all taints": ([{"operator": "Exists"}], False),
    "for a time": ([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}], True),
    "forever": ([{"key": UNREACHABLE, "operator": "Exists"}], True),
    "for scheduling only": ([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}], False),
    "not ready": ([{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 600, "effect": "NoExecute"}], False),
}


@pytest.mark.parametrize(("tolerations", "expected"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_the_template_may_say_how_long_pods_tolerate_a_silent_kubernetes_node(
    tolerations: list[Any], expected: bool
) -> None:
    template = job_manifest()["spec"]["template"]
    template["spec"]["tolerations"] = tolerations
    assert tolerates_silence(template["spec"]) is expected
    phases = [look(raw, host(), state=UNHEARD, hearing=LONG, template=template).nodes[0].phase for raw in (NODE, GOING)]
    assert phases == [Phase.RUNNING if expected else Phase.LOST, Phase.LOST], "Kubernetes decides, and its word counts"


class Time:
    """A monotonic clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_a_connection_hears() -> None:
    time = Time()
    ears = Ears(time)
    assert ears.hearing() == Hearing(0, 0.0)
    time.now = 5.0
    ears.failed(alive=False)
    assert ears.hearing() == Hearing(1, 5.0)
    time.now = 7.0
    ears.answered(HEARD)
    time.now = 30.0
    assert ears.hearing() == Hearing(connected_seconds=23.0)
    ears.answered(UNHEARD)
    time.now = 34.0
    assert ears.hearing() == Hearing(connected_seconds=27.0, agents={"10.0.0.1": 4.0})
    ears.answered(HEARD)
    assert ears.hearing() == Hearing(connected_seconds=27.0)
    time.now = 40.0
    ears.failed(alive=False)
    time.now = 43.0
    assert ears.hearing() == Hearing(1, 3.0)
    ears.failed(alive=True)
    assert ears.hearing() == Hearing(0, 0.0), "something answered"
    time.now = 50.0
    ears.answered(UNHEARD)
    assert ears.hearing() == Hearing(connected_seconds=0.0), "a new connection has heard nothing yet"


def test_what_a_connection_remembers_is_bounded() -> None:
    time = Time()
    ears = Ears(time)
    for second in range(100):
        time.now = float(second)
        ears.answered(replace(HEARD, members=(Member(f"10.0.1.{second}", 0),)))
    assert len(ears.hearing().agents) <= SILENT_SECONDS
    assert ears.hearing().agent_silent_in("10.0.1.0", HEARD) == 0.0


@pytest.mark.parametrize(
    ("hearing", "expected"),
    [
        (Hearing(connected_seconds=0.0), math.inf),
        (Hearing(), SILENT_SECONDS),
        (Hearing(LEAST_ATTEMPTS, 5.0), 15.0),
        (Hearing(LEAST_ATTEMPTS, 20.0), 0.0),
        (Hearing(LEAST_ATTEMPTS - 1, 20.0), 2.0),
    ],
)
def test_when_a_host_counts_as_silent(hearing: Hearing, expected: float) -> None:
    assert hearing.host_silent_in() == expected


def test_an_agent_between_two_rounds_is_heard() -> None:
    state = RendezvousState("aa", members=(Member("a", 0), Member("b", 1)), waiting=("c",), silent=("b",))
    assert heard(state) == {"a", "c"}
