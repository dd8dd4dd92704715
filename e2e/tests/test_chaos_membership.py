"""The rules of chaos-membership find violations, and nothing else. Times are in seconds."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chaos.membership.accounts import adds_up, expected
from chaos.membership.pauses import LIMIT_SECONDS, Pause, allowance_of, never_stuck, pauses_of, prevented
from chaos.membership.plan import Kind, planned
from chaos.membership.records import (
    MAX,
    MIN,
    End,
    Fault,
    Group,
    Journal,
    Line,
    Pod,
    Sample,
    Snapshot,
    Start,
    Step,
    Violation,
    parse,
)
from chaos.membership.report import Evidence, judged, told
from chaos.membership.scene import has_settled, sample_of
from chaos.membership.stretches import (
    REPAIRED,
    Change,
    changes_of,
    one_master_at_a_time,
    planned_cost_nothing,
    rounds_agree,
    steps_follow,
    stretches_of,
)
from support.kubectl import Object

A, B = "10.0.1.2:40001", "10.0.1.3:40002"


def start(at: float, rank: int, master: str = A, world: int = 2, pod: str = "", run: str = "u") -> Start:
    return Start(at, pod or f"job-{rank}", 70 + rank, rank, world, master, run, 0)


def steps(began: float, first: int, count: int, master: str = A, world: int = 2) -> list[Step]:
    """Steps that go on from `first` steps done, one per second."""
    return [Step(began + number, master, first + number + 1, first, world) for number in range(count)]


def fault(kind: Kind, at: float = 10.0, **values: Any) -> Fault:
    given: dict[str, Any] = {"number": 1, "kind": kind, "time": at, "until": at, "target": "", "group": 1}
    return Fault(**(given | values))


def rules(violations: Sequence[Violation]) -> list[tuple[float, str]]:
    return [(violation.time, violation.rule) for violation in violations]


_START = (
    '{"event": "start", "time": 1.5, "master": "10.0.1.2:40001", "pod": "job-0", "process": 70, "rank": 0, '
    '"world": 2, "run": "u", "restart": 3}'
)
_STEP = '{"event": "step", "time": 2.0, "master": "10.0.1.2:40001", "done": 11, "resumed": 10, "world": 2}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (_START, Start(1.5, "job-0", 70, 0, 2, A, "u", 3)),
        (_STEP, Step(2.0, A, 11, 10, 2)),
        ('{"event": "snapshot", "time": 2.0, "master": "m", "step": 10}', Snapshot(2.0, "m", 10)),
        ('{"event": "end", "time": 9.0, "master": "m", "step": 60}', End(9.0, "m", 60)),
        (_STEP[:40], None),
        ('{"event": "other"}', None),
        ("", None),
    ],
)
def test_the_journal_is_read_line_by_line(text: str, line: Line | None) -> None:
    assert parse(text) == line


def test_a_journal_is_followed_while_it_is_written(tmp_path: Path) -> None:
    journal, file = Journal(tmp_path), tmp_path / "job-0-1.jsonl"
    file.write_text(f"{_START}\n{_STEP[:30]}")
    journal.follow()
    assert (journal.starts, journal.steps) == ([Start(1.5, "job-0", 70, 0, 2, A, "u", 3)], [])
    file.write_text(f"{_START}\n{_STEP}\n")
    journal.follow()
    journal.follow()
    assert (len(journal.starts), journal.steps) == (1, [Step(2.0, A, 11, 10, 2)])


@pytest.mark.parametrize(
    ("recorded", "wrong"),
    [
        ([], []),
        (steps(0, 0, 5), []),
        (steps(0, 0, 5) + steps(5, 5, 5, B), []),
        (steps(0, 0, 5) + steps(3, 0, 5, B), [(3, "two-masters")]),  # The old one continued.
        (steps(0, 0, 9) + steps(3, 0, 2, B), [(3, "two-masters")]),  # The new one ended first.
        (steps(0, 0, 3) + steps(5, 0, 3, B) + steps(9, 3, 3), []),  # A port is drawn again later.
    ],
)
def test_no_step_is_taken_under_an_old_master(recorded: list[Step], wrong: list[tuple[float, str]]) -> None:
    assert rules(one_master_at_a_time(stretches_of(recorded))) == wrong


@pytest.mark.parametrize(
    ("starts", "recorded", "wrong"),
    [
        ([start(0, 0), start(1, 1)], steps(2, 0, 3), []),
        ([start(0, 0)], [], []),  # The others were killed before they started.
        ([start(0, 0)], steps(2, 0, 3), [(2, "round")]),  # It trained without them.
        ([start(0, 0), start(1, 1, world=3)], [], [(0, "round")]),
        ([start(0, 0), start(1, 1, run="v")], [], [(0, "round")]),
        ([start(0, 0), start(1, 0, pod="job-1")], [], [(0, "round")]),
        ([start(0, 0), start(1, 1, pod="job-0")], [], [(0, "round")]),
        ([start(0, 0), start(1, 2)], [], [(0, "round")]),
        ([start(0, 0), start(1, 1), start(100, 0), start(101, 1)], steps(102, 0, 3), []),  # The same port again.
    ],
)
def test_the_workers_of_a_round_agree(
    starts: list[Start], recorded: list[Step], wrong: list[tuple[float, str]]
) -> None:
    assert rules(rounds_agree(starts, recorded)) == wrong


def test_rounds_that_lost_rank_0_share_an_address_and_take_no_step() -> None:
    starts = [start(0, 1, REPAIRED, world=2), start(9, 3, REPAIRED, world=4), start(9, 1, REPAIRED, world=4)]
    assert rounds_agree(starts, []) == []
    assert rules(rounds_agree(starts, steps(10, 0, 1, REPAIRED))) == [(10, "round")]


@pytest.mark.parametrize(
    ("recorded", "snapshots", "wrong"),
    [
        (steps(0, 0, 15) + steps(20, 10, 5, B), [Snapshot(10, A, 10)], []),
        (steps(0, 0, 15) + steps(20, 15, 5, B), [Snapshot(10, A, 10)], []),  # One was saved when it left.
        (steps(0, 0, 15) + steps(20, 0, 5, B), [Snapshot(10, A, 10)], [(20, "snapshot")]),
        (steps(0, 0, 15) + steps(20, 0, 5, B), [], []),
        (steps(0, 0, 5) + steps(9, 7, 2), [], []),
        ([*steps(0, 0, 3), Step(5, A, 5, 0, 2)], [], [(0, "steps")]),  # One is missing.
        ([*steps(0, 0, 3), Step(5, A, 3, 0, 2)], [], [(0, "steps")]),  # One comes twice.
    ],
)
def test_a_world_goes_on_from_the_newest_snapshot(
    recorded: list[Step], snapshots: list[Snapshot], wrong: list[tuple[float, str]]
) -> None:
    assert rules(steps_follow(stretches_of(recorded), snapshots)) == wrong


_LOSSY = steps(0, 0, 10) + steps(20, 5, 5, B)


@pytest.mark.parametrize(
    ("recorded", "faults", "change", "wrong"),
    [
        (steps(0, 0, 10) + steps(20, 10, 5, B), [fault(Kind.SCALE)], Change(20, 11, 0, True), []),
        (_LOSSY, [fault(Kind.SCALE)], Change(20, 11, 5, True), [(20, "planned")]),
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.CORDON)], Change(20, 11, 5, True), [(20, "planned")]),
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.KILL_OPERATOR)], Change(20, 11, 5, True), [(20, "planned")]),
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.KILL_NODE)], Change(20, 11, 5, False), []),
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.KILL_NODE, -5)], Change(20, 11, 5, False), []),  # Still in effect.
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.KILL_NODE, -50)], Change(20, 11, 5, True), [(20, "planned")]),
        (_LOSSY, [fault(Kind.SCALE), fault(Kind.PARTITION, -50, until=5.0)], Change(20, 11, 5, False), []),
        (_LOSSY, [fault(Kind.CORDON)], Change(20, 11, 5, False), []),  # Another fault was the cause.
    ],
)
def test_announced_changes_lose_no_step(
    recorded: list[Step], faults: list[Fault], change: Change, wrong: list[tuple[float, str]]
) -> None:
    changes = changes_of(stretches_of(recorded), faults)
    assert changes == [change]
    assert rules(planned_cost_nothing(changes)) == wrong


def pod(index: int | None, machine: str = "node1", phase: str = "Running") -> Pod:
    return Pod(f"job-{index}", f"uid-{index}", index, machine, phase)


def sample(at: float = 0.0, nodes: int = 4, away: int = 0, **values: Any) -> Sample:
    pods = tuple(pod(index, "node2" if index < away else "node1") for index in range(nodes))
    given: dict[str, Any] = {"time": at, "wanted": nodes, "nodes": pods, "host": pod(None, "node3")}
    return Sample(**(given | values))


_CUT: dict[str, Any] = {"cut": frozenset({"node2"})}


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (sample(), False),
        (sample(nodes=4, away=2, **_CUT), False),
        (sample(nodes=4, away=3, **_CUT), True),
        (sample(nodes=4, away=3, unready=frozenset({"node2"}), **_CUT), False),  # Every process knows.
        (sample(cut=frozenset({"node3"})), True),  # The rendezvous host.
        (sample(cut=frozenset({"node3"}), unready=frozenset({"node3"})), False),
        (sample(host=None), False),
        (sample(wanted=2, nodes=0), False),  # No pod was created: that is no excuse.
    ],
)
def test_only_what_nobody_can_know_excuses_a_pause(given: Sample, result: bool) -> None:
    assert prevented(given) is result


_TWO = [Step(0.0, A, 1, 0, 2), Step(100.0, B, 2, 1, 2)]


@pytest.mark.parametrize(
    ("samples", "faults", "counted"),
    [
        ([], [], 100.0),
        ([], [fault(Kind.KILL_NODE, 0.0)], 100.0 - 15.0),
        ([], [fault(Kind.CORDON, 0.0), fault(Kind.KILL_OPERATOR, 0.0)], 100.0),
        ([], [fault(Kind.KILL_NODE, 0.0), fault(Kind.KILL_NODE, 5.0)], 95.0 - 15.0),
        ([], [fault(Kind.PARTITION, 0.0, until=50.0)], 100.0 - 2 * 15.0),
        ([sample(10, away=3, **_CUT), sample(40), sample(50)], [], 70.0),
        ([sample(10, away=3, **_CUT), sample(40)], [fault(Kind.STOP_MACHINE, 30.0)], 70.0 - 15.0 + 10.0),
        ([], [fault(Kind.KILL_NODE, 95.0)], 95.0),
    ],
)
def test_the_clock_stands_still_while_nothing_can_train(
    samples: list[Sample], faults: list[Fault], counted: float
) -> None:
    assert pauses_of(_TWO, samples, faults, 100.0, 15.0) == [Pause(0.0, 100.0, counted)]


@pytest.mark.parametrize(("start", "allowance"), [(8.0, 15.0), (40.0, 40.0)])
def test_the_allowance_is_what_a_start_takes_here(start: float, allowance: float) -> None:
    assert allowance_of(start) == allowance


def test_a_job_that_never_trains_again_is_stuck() -> None:
    found = pauses_of(steps(0, 0, 3), [], [], 100.0, 15.0)
    assert found == [Pause(2.0, 100.0, 98.0)]
    assert rules(never_stuck(found)) == [(2.0, "stuck")]
    assert never_stuck([Pause(0.0, 100.0, LIMIT_SECONDS)]) == []


def group(*faults: Fault, ended: int = 0, settled: bool = True, **after: int) -> Group:
    return Group(faults, {}, after, ended, settled)


_HIT: dict[str, Any] = {"hits": ("u1",), "recorded": ("u1",), "before": 4, "after": 4}
_NONE = {"code": (0, 0), "infrastructure": (0, 0), "preemption": (0, 0), "resize": (0, 0)}


@pytest.mark.parametrize(
    ("of", "bounds"),
    [
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1), {"infrastructure": (1, 1)}),
        (group(fault(Kind.DELETE, **_HIT), ended=1), {"infrastructure": (1, 1)}),
        (group(fault(Kind.EVICT, **_HIT), ended=1), {"preemption": (1, 1)}),
        (group(fault(Kind.KILL_WORKER)), {"code": (1, 1)}),
        (group(fault(Kind.TERMINATE_WORKER)), {"code": (1, 1)}),
        (group(fault(Kind.SCALE, before=4, after=6)), {"resize": (1, 1)}),
        (group(fault(Kind.SCALE, before=4, after=4)), {}),
        (group(fault(Kind.KILL_OPERATOR)), {}),
        (group(fault(Kind.CORDON)), {}),
        (group(fault(Kind.KILL_HOST), ended=4), {"infrastructure": (0, 4)}),
        (group(fault(Kind.STOP_MACHINE, **_HIT), ended=2), {"infrastructure": (0, 2)}),
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1, settled=False), {"infrastructure": (0, 1)}),
        (group(fault(Kind.KILL_NODE, **_HIT), fault(Kind.EVICT, **_HIT), ended=1),
         {"infrastructure": (0, 1), "preemption": (0, 1)}),
        (group(fault(Kind.KILL_NODE, **_HIT), fault(Kind.KILL_WORKER), ended=1),
         {"code": (0, 1), "infrastructure": (1, 1)}),
        (group(fault(Kind.KILL_NODE, **_HIT), fault(Kind.SCALE, before=4, after=2), ended=3),
         {"infrastructure": (0, 3), "resize": (0, 1)}),
    ],
)  # fmt: skip
def test_restarts_expected_of_a_group_of_faults(of: Group, bounds: dict[str, tuple[int, int]]) -> None:
    assert expected(of) == _NONE | bounds


@pytest.mark.parametrize(
    ("of", "wrong"),
    [
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1, infrastructure=1), []),
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1), [(10.0, "restarts")]),
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1, infrastructure=2), [(10.0, "restarts")]),
        (group(fault(Kind.KILL_NODE, **_HIT), ended=1, infrastructure=1, code=1), [(10.0, "restarts")]),
        (group(fault(Kind.KILL_HOST), ended=4, code=1), [(10.0, "restarts")]),
    ],
)
def test_restarts_that_do_not_add_up_are_told(of: Group, wrong: list[tuple[float, str]]) -> None:
    assert rules(adds_up([of])) == wrong


def test_a_seed_says_what_happens() -> None:
    first, again, other = (list(islice(planned(seed), 200)) for seed in (7, 7, 8))
    assert first == again != other
    assert {plan.kind for plan in first} == set(Kind)
    assert {plan.nodes for plan in first} == set(range(MIN, MAX + 1))


def _api_pod(name: str, index: str | None, phase: str = "Running", **metadata: str) -> Object:
    labels = {"torchrun.dev/job-name": "job", **({} if index is None else {"torchrun.dev/node-index": index})}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, **metadata},
        "spec": {"nodeName": "node1"},
        "status": {"phase": phase},
    }


def test_a_sample_says_what_the_api_server_said() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    status = {
        "state": "Running",
        "observedGeneration": 3,
        "restarts": {"code": 1},
        "membership": {"nodes": 2, "desiredNodes": 2},
        "nodes": [{"uid": "uid-job-0", "phase": "Running"}, {"uid": "old", "phase": "Failed"}],
    }
    objects: list[Object] = [
        _api_pod("job-0", "0"),
        _api_pod("job-1", "1", "Pending", deletionTimestamp="now"),
        _api_pod("job-rdzv", None),
        {"kind": "TorchrunJob", "metadata": {"generation": 3}, "status": status},
        {"kind": "Node", "metadata": {"name": "node1"}, "status": ready},
        {"kind": "Node", "metadata": {"name": "node2"}, "status": {}},
    ]
    taken, pods = sample_of(5.0, objects, [{"metadata": {}, "status": ready}], 2, {"node2"})
    assert [found["metadata"]["name"] for found in pods] == ["job-0", "job-1", "job-rdzv"]
    assert taken == Sample(
        time=5.0,
        wanted=2,
        nodes=(
            Pod("job-0", "uid-job-0", 0, "node1", "Running"),
            Pod("job-1", "uid-job-1", 1, "node1", "Pending", terminating=True),
        ),
        host=Pod("job-rdzv", "uid-job-rdzv", None, "node1", "Running"),
        state="Running",
        members=2,
        restarts={"code": 1},
        recorded=frozenset({"uid-job-0"}),
        current=True,
        cut=frozenset({"node2"}),
        unready=frozenset({"node2"}),
    )


_SETTLED: dict[str, Any] = {"state": "Running", "members": 2, "nodes": 2, "recorded": frozenset({"uid-0", "uid-1"})}


@pytest.mark.parametrize(
    ("values", "result"),
    [
        ({}, True),
        ({"state": "Resizing"}, False),
        ({"members": 1}, False),
        ({"wanted": 3}, False),
        ({"recorded": frozenset({"uid-0"})}, False),
        ({"cut": frozenset({"node9"})}, False),
        ({"current": False}, False),
        ({"at": 13.5}, False),  # no step since 12
        ({"quiet": 9.0}, False),  # A fault happened just now.
    ],
)
def test_a_job_has_settled_when_it_trains_and_its_status_says_so(
    tmp_path: Path, values: dict[str, Any], result: bool
) -> None:
    journal = Journal(tmp_path)
    journal.steps = steps(0, 0, 12)
    given = _SETTLED | {"at": 12.5} | values
    quiet = given.pop("quiet", 0.0)
    assert has_settled(sample(**given), journal, quiet) is result


def test_the_report_names_what_is_wrong_and_what_was_going_on() -> None:
    evidence = Evidence(
        seed=7,
        began=0.0,
        ended=10.0,
        starts=[start(0, 0), start(0, 1), start(3, 0, B), start(3, 1, B)],
        steps=steps(1, 0, 5) + steps(4, 0, 5, B),
        snapshots=[],
        samples=[],
        faults=[fault(Kind.KILL_NODE, 3.0, target="job-1", **_HIT)],
        groups=[group(fault(Kind.KILL_NODE, 3.0, **_HIT), ended=1, infrastructure=1)],
        restarts={"infrastructure": 1},
        asked=1,
    )
    report = judged(evidence)
    assert [(each["rule"], each["around"]) for each in report["violations"]] == [
        ("two-masters", ["00:00:03.000 (+3.0 s) #1 (group 1) kill-node job-1"])
    ]
    assert report["stepsLost"] == 5
    assert "VIOLATION 00:00:04.000 (+4.0 s) two-masters" in told(report)
