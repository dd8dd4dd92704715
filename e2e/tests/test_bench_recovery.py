"""The arithmetic of the recovery benchmark: from lines of logs to figures, table and picture."""

import dataclasses
import math
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.recovery.bars import BARS, Ratio, judged
from bench.recovery.bars import told as told_bars
from bench.recovery.faults import FAULTS
from bench.recovery.lines import Boot, Line, Step, boots_of, parse, steps_of, trained_for
from bench.recovery.metrics import Measures, curve, measure
from bench.recovery.picture import picture
from bench.recovery.report import with_figures
from bench.recovery.results import document, table, told
from bench.recovery.runner import Runner
from bench.recovery.systems import JOB_LABEL, MAX, Cold, Ours, Plain, Pods, PyTorchJob, Spare, all_systems
from support.waiting import NotInTimeError

FAULT = 100.0
WINDOW = 100.0


def life(began: float, world: int, resumed: int, times: list[float], pod: str = "job-0") -> list[Line]:
    """Return the lines of one start of workers: a step at each of the times."""
    steps = [Step(time, resumed + number + 1, world, began, resumed, pod) for number, time in enumerate(times)]
    return [Boot(began, world, pod), *steps]


BEFORE = life(90.0, 3, 50, [96.0, 97.0, 98.0, 99.0, 100.0])
"""Steps 51 to 55, one a second."""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"bench": "boot", "time": 5.5, "world": 3}', Boot(5.5, 3, "job-0")),
        (
            '{"bench": "step", "time": 6.5, "done": 51, "world": 3, "began": 5.5, "resumed": 50}',
            Step(6.5, 51, 3, 5.5, 50, "job-0"),
        ),
        ('{"bench": "step", "time": 6.5, "done": 51, "wor', None),
        ('{"bench": "step", "time": 6.5}', None),
        ('{"bench": "other"}', None),
        ('{"time": 6.5}', None),
        ("time=6.500 step=51/600 world=3", None),
    ],
)
def test_lines_of_the_script_are_told_from_others(text: str, line: Line | None) -> None:
    assert parse(text, "job-0") == line


def test_lines_are_ordered_by_time_and_counted_once() -> None:
    shuffled = [*reversed(BEFORE), *BEFORE]
    assert [step.done for step in steps_of(shuffled)] == [51, 52, 53, 54, 55]
    assert boots_of(shuffled) == [Boot(90.0, 3, "job-0")]


@pytest.mark.parametrize(
    ("lines", "world", "now", "seconds"),
    [
        (BEFORE, 3, 100.5, 4.0),
        (BEFORE, 2, 100.5, 0.0),
        (BEFORE, 3, 110.0, 0.0),
        ([*BEFORE, Boot(100.2, 3, "job-1")], 3, 100.5, 0.0),
        ([*BEFORE, *life(101.0, 3, 50, [103.0, 104.5])], 3, 105.0, 1.5),
        ([], 3, 100.5, 0.0),
    ],
    ids=["trains", "of another size", "stands still", "restarting", "after a restart", "nothing yet"],
)
def test_how_long_a_job_has_trained(lines: list[Line], world: int, now: float, seconds: float) -> None:
    assert trained_for(lines, world, now) == seconds


_RECOVERED = Measures(
    next_step_seconds=6.0,
    full_size_seconds=6.0,
    steps_lost=5,
    rounds=1,
    pause_seconds=6.0,
    lost_seconds=6.0,
    goodput=0.94,
)


@pytest.mark.parametrize(
    ("lines", "world", "until", "expected"),
    [
        pytest.param([*BEFORE, *life(103.0, 3, 50, [106.0, 107.0])], 3, 108.0, _RECOVERED, id="killed"),
        pytest.param(
            [*life(40.0, 3, 0, [50.0]), *BEFORE, *life(103.0, 3, 50, [106.0, 107.0])],
            3,
            108.0,
            _RECOVERED,
            id="what was before is not counted",
        ),
        pytest.param(
            [*BEFORE, *life(103.0, 2, 50, [106.0, 107.0]), *life(108.0, 3, 52, [111.0])],
            3,
            112.0,
            Measures(6.0, 11.0, 5, 2, 6.0, 11.0, 0.89),
            id="smaller first",
        ),
        pytest.param(
            [*BEFORE, *life(103.0, 3, 50, []), *life(108.0, 3, 50, [111.0])],
            3,
            112.0,
            dataclasses.replace(
                _RECOVERED,
                next_step_seconds=11.0,
                full_size_seconds=11.0,
                rounds=2,
                pause_seconds=11.0,
                lost_seconds=11.0,
                goodput=0.89,
            ),
            id="a round in vain",
        ),
        pytest.param(
            [*life(90.0, 3, 50, [98.0, 99.0, 100.0, 101.0, 102.0]), *life(103.0, 2, 55, [106.0])],
            2,
            107.0,
            # Three of six seconds became progress: the steps at 101, 102 and 106.
            Measures(6.0, 6.0, 0, 1, 4.0, 3.0, 0.97),
            id="trains on until it is asked to stop",
        ),
        pytest.param(
            [*BEFORE, *life(103.0, 2, 50, [106.0])],
            3,
            300.0,
            Measures(6.0, None, 5, 1, 194.0, 200.0, 0.0),
            id="never at full size",
        ),
        pytest.param(BEFORE, 3, 200.0, Measures(None, None, None, 0, 100.0, 100.0, 0.0), id="never again"),
        pytest.param([], 3, 200.0, Measures(None, None, None, 0, None, None, None), id="nothing was read"),
    ],
)
def test_figures_of_a_repetition(lines: list[Line], world: int, until: float, expected: Measures) -> None:
    assert measure(lines, FAULT, world, until, WINDOW) == expected


def _trains_on(*times: float) -> list[Line]:
    return life(90.0, 3, 50, [96.0, 97.0, 98.0, 99.0, 100.0, *times])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (_trains_on(*range(101, 110)), Measures(1.0, 1.0, 0, 0, 1.0, 1.0, 0.99)),
        (_trains_on(101.0, 102.0, 103.0, 107.0, 108.0, 109.0), Measures(1.0, 1.0, 0, 0, 4.0, 4.0, 0.96)),
        ([*BEFORE, *life(103.0, 3, 50, [106.0])], _RECOVERED),
    ],
    ids=["no pause", "a pause", "workers start again"],
)
def test_workers_that_train_on(lines: list[Line], expected: Measures) -> None:
    assert measure(lines, FAULT, 3, 110.0, WINDOW, kept=True) == expected


def test_a_curve_keeps_what_makes_a_difference() -> None:
    lines = [*BEFORE, *life(103.0, 3, 50, [106.0, 106.5, 107.0])]
    lines += [Step(107.5 + step / 2, 54 + step, 3, 103.0, 50, "job-0") for step in range(20)]
    before, after = [[-4.0, -4], [0.0, 0], [6.0, 0], [6.0, -4]], [17.0, 18]
    assert curve(lines, FAULT, 117.5) == [*before, after]
    assert curve(lines, FAULT, 200.0) == [*before, after, [100.0, 18]]
    assert curve([*lines, Boot(118.0, 3, "job-0")], FAULT, 110.0) == [*before, [10.0, 4]]
    assert curve([], FAULT, 200.0) == []


def _record(system: str, fault: str, full: float | None, **further: Any) -> dict[str, Any]:
    figures = Measures(full, full, None if full is None else 4, 1, full or 180.0, full, 0.5)
    record = {"system": system, "fault": fault, "repetition": 1, **dataclasses.asdict(figures)}
    return {**record, "restarts": {}, "curve": [[-5.0, -50], [0.0, 0], [6.0, -4], [20.0, 136]], **further}


def _document(*records: dict[str, Any]) -> dict[str, Any]:
    kubectl: Any = None
    pods = Pods("image:1", "node5")
    return {**document(FAULTS, all_systems(kubectl, pods), {}, {}, 180.0), "repetitions": list(records)}


def _row(content: dict[str, Any], system: str) -> list[str]:
    """Return the cells of the only row of a system, without fault, system and number of repetitions."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(content).splitlines()]
    (found,) = [row[3:] for row in rows if row[1] == system and row[2] != "0"]
    return found


def test_the_table_shows_median_and_worst() -> None:
    content = _document(*(_record("torchrunjob", "kill-worker", seconds) for seconds in (5.0, 7.0, 6.0)))
    assert _row(content, "TorchrunJob") == [
        "6.0 s (7.0 s)",
        "6.0 s (7.0 s)",
        "4 (4)",
        "1 (1)",
        "6.0 s (7.0 s)",
        "50 % (50 %)",
    ]


def test_what_was_not_recovered_from_is_no_gap_in_the_table() -> None:
    content = _document(*(_record("pytorchjob", "kill-worker", seconds) for seconds in (50.0, None, 60.0)))
    assert _row(content, "PyTorchJob")[:3] == ["60.0 s (> 180 s; 1 of 3 not)", "60.0 s (> 180 s; 1 of 3 not)", "4 (4)"]
    never = _document(*(_record("pytorchjob", "kill-worker", None) for _ in range(2)))
    assert _row(never, "PyTorchJob")[:3] == ["> 180 s (> 180 s)", "> 180 s (> 180 s)", "-"]


def test_what_cannot_be_done_is_in_the_table_with_its_reason() -> None:
    content = _document(_record("torchrunjob", "scale-up", 9.0))
    assert "| pods by hand | 0 | not measured: there is no operator that creates or deletes pods |" in table(content)
    content = _document(_record("pods", "terminate", 50.0, full_size_seconds=None))
    assert _row(content, "pods by hand")[:2] == ["50.0 s (50.0 s)", f"never: {content['shrinks']['pods']['terminate']}"]


@pytest.mark.parametrize(
    ("record", "verdicts"),
    [
        (_record("torchrunjob", "kill-worker", 5.0), [(5.0, True)]),
        (_record("torchrunjob", "kill-worker", 5.1), [(5.1, False)]),
        (_record("torchrunjob", "kill-worker", None), [(math.inf, False)]),
        (_record("torchrunjob-spare", "kill-rank-0", 2.0), [(2.0, True)]),
        (_record("torchrunjob-spare", "kill-rank-0", 2.1), [(2.1, False)]),
        (_record("torchrunjob", "drain", 7.0, steps_lost=0), [(0, True), (1, True)]),
        (_record("torchrunjob", "drain", 7.0, steps_lost=1, rounds=2), [(1, False), (2, False)]),
        (_record("torchrunjob", "stop-machine", 29.0, not_ready_seconds=20.0), [(9.0, False)]),
        (_record("torchrunjob", "stop-machine", 9.0, not_ready_seconds=20.0), [(0.0, True)]),
        (_record("torchrunjob", "stop-machine", 9.0), [(0.0, True)]),
        (_record("torchrunjob", "kill-store", 5.0, restarts={"code": 1}), [(5.0, False), (5.0, True), (1, False)]),
        (_record("torchrunjob", "kill-store", 4.0), [(4.0, True), (4.0, True), (math.inf, False)]),
        ({"system": "torchrunjob", "fault": "partition", "repetition": 1, "error": "x"}, [(math.inf, False)]),
        (_record("pytorchjob", "kill-worker", None), []),
    ],
)
def test_each_bar_is_met_or_missed(record: dict[str, Any], verdicts: list[tuple[float, bool]]) -> None:
    content = _document(record)
    assert [(seen, met) for _, seen, met in judged(content)] == verdicts
    assert told_bars(content).count("missed") == sum(not met for _, met in verdicts)


@pytest.mark.parametrize(
    ("fault", "figures", "seen"),
    [
        ("kill-worker", [(9.0, 0), (7.0, 0), (7.5, 0)], [7.5]),
        ("kill-worker", [(7.0, 0), (None, 0), (9.0, 0)], [9.0]),
        ("drain", [(9.0, 0), (7.0, 1), (7.0, 0)], [1, 1]),
    ],
    ids=["the median", "what is missing counts as long", "planned changes every time"],
)
def test_seconds_are_judged_by_the_median(
    fault: str, figures: list[tuple[float | None, int]], seen: list[float]
) -> None:
    content = _document(*(_record("torchrunjob", fault, seconds, steps_lost=lost) for seconds, lost in figures))
    assert [value for _, value, _ in judged(content)] == seen


@pytest.mark.parametrize(
    ("ours", "peers", "expected"),
    [
        (6.0, 6.0, (1.0, True)),
        (6.0, 3.0, (0.5, False)),
        (6.0, None, (math.inf, True)),
        (None, 30.0, (0.0, False)),
        (None, None, (0.0, False)),
    ],
)
def test_the_peer_is_measured_in_the_same_run(
    ours: float | None, peers: float | None, expected: tuple[float, bool]
) -> None:
    content = _document(_record("torchrunjob", "kill-worker", ours), _record("pytorchjob", "kill-worker", peers))
    assert [(seen, met) for bar, seen, met in judged(content) if isinstance(bar, Ratio)] == [expected]


def test_every_bar_is_for_a_fault() -> None:
    assert {bar.fault for bar in BARS} == {fault.name for fault in FAULTS}


def test_a_repetition_is_told_in_a_line() -> None:
    record = _record("torchrunjob", "partition", 6.0, not_ready_seconds=20.5, restarts={"code": 0, "infrastructure": 1})
    assert told(record).endswith(
        "next step 6.0 s, full size 6.0 s, longest pause 6.0 s, steps lost 4, rounds 1  "
        "not ready after 20.5 s  infrastructure 1"
    )
    assert told({"system": "pods", "fault": "drain", "repetition": 2, "error": "no pod"}).endswith("2  no pod")


def test_the_picture_has_a_line_for_each_repetition() -> None:
    records = [_record("torchrunjob", "kill-worker", 6.0), _record("pods", "kill-worker", 80.0)]
    root = ElementTree.fromstring(picture(_document(*records, {"fault": "drain", "system": "pods", "error": "x"})))
    lines = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 2
    titles = [element.text for element in root.iter() if element.get("class") == "title"]
    assert titles[1:] == ["all processes of a node pod killed (SIGKILL), not of rank 0"]


def test_the_picture_of_nothing_is_a_picture() -> None:
    assert ElementTree.fromstring(picture(_document())).tag.endswith("svg")


def test_figures_replace_those_of_before() -> None:
    page = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n"
    assert with_figures(page, "new\n") == "before\n<!-- figures -->\nnew\n<!-- /figures -->\nafter\n"
    with pytest.raises(ValueError, match="has no lines"):
        with_figures("before\nafter\n", "new\n")


class Recorder:
    """Records the objects that a system applies."""

    def __init__(self) -> None:
        self.applied: list[dict[str, Any]] = []

    def apply(self, *objects: dict[str, Any]) -> None:
        self.applied += objects


def test_all_systems_get_the_same_pods() -> None:
    made = {}
    for kind in (Ours, Spare, Cold, PyTorchJob, Plain):
        kubectl: Any = Recorder()
        kind(kubectl, Pods("image:1", "node5")).create("job", MAX)
        made[kind] = kubectl.applied
    ours = made[Ours][0]["spec"]["template"]
    others = [made[kind][0]["spec"]["template"] for kind in (Spare, Cold)]
    peer = made[PyTorchJob][0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    hand = [pod for pod in made[Plain] if pod["kind"] == "Pod"]
    assert [pod["metadata"]["name"] for pod in hand] == ["job-0", "job-1", "job-2"]
    for template in (ours, *others, peer, *hand):
        assert template["metadata"]["labels"] == {JOB_LABEL: "job"}
        assert template["spec"]["affinity"] == ours["spec"]["affinity"]
        (container,) = template["spec"]["containers"]
        (expected,) = ours["spec"]["containers"]
        assert [container[key] for key in ("image", "resources")] == [expected[key] for key in ("image", "resources")]
        assert container["command"][-2:] == ["/workspace/train.py", "/snapshots/job"]


def test_every_fault_has_a_name_of_its_own_and_reasons_name_faults() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    content = _document()
    for reasons in (content["cannot"], content["shrinks"]):
        assert {fault for system in reasons.values() for fault in system} <= set(names)


def test_a_system_that_never_recovers_is_not_asked_a_third_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, 5.0, None, None])
    monkeypatch.setattr(Runner, "_measured", lambda *_: {"next_step_seconds": next(answers)})
    reported: list[dict[str, Any]] = []
    kubectl: Any = None
    runner = Runner(kubectl, Plain(kubectl, Pods("image:1", "node5")), 180.0, reported.append)
    for number in range(1, 7):
        runner.repetition(FAULTS[0], number)
    assert [(one["repetition"], one["next_step_seconds"]) for one in reported] == [
        (1, None),
        (2, 5.0),
        (3, None),
        (4, None),
    ]


def test_a_repetition_that_cannot_be_done_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotInTimeError("it does not train")

    monkeypatch.setattr(Runner, "_measured", fail)
    reported: list[dict[str, Any]] = []
    kubectl: Any = None
    Runner(kubectl, Plain(kubectl, Pods("image:1", "node5")), 180.0, reported.append).repetition(FAULTS[0], 1)
    assert reported == [{"system": "pods", "fault": "start", "repetition": 1, "error": "it does not train"}]
