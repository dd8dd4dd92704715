"""What the command line shows of jobs and events: whole screens, tables and their parts."""

import copy
from typing import Any

import pytest

from cli_jobs import JOB, NOW
from torchrun_cli.show.events import event_line, event_table
from torchrun_cli.show.job import Pace, goodput_words, job_screen, ranks_of, seconds_left
from torchrun_cli.show.jobs import job_table
from torchrun_cli.show.objects import formatted
from torchrun_cli.show.pace import Stopwatch, has_ended
from torchrun_cli.show.style import Paint, width_of
from torchrun_cli.show.table import table, wrapped
from torchrun_cli.show.times import age, duration, moment

SCREEN = """\
digits   Running
  3 of 4 nodes train in round 2; pod digits-3 waits: no room
Namespace:   ml
Time:        created 3h ago, started 1h ago
Progress:    █████████░░░░░░░░░░░░░░░ 40 %, 400 of 1000 steps, about 1h29m left
Training:    epoch 4, loss 0.25, 812.5 samples/s, snapshot of step 380 (1m ago), reported 2s ago
Nodes:       3 of 4 wanted nodes train (nnodes 2:4), world size 6, round 2; 0 of 1 spares ready
Last change: 5m ago, cause: infrastructure; trained again after 5.5 s, 12 steps repeated
Restarts:    code 1 of 3, infrastructure 2, preemption 0, resize 0
Straggler:   rank 3 (pod digits-1 on w2): the others wait 0.31 s of each step of 0.9 s

NODE   RANKS   PHASE     POD           RUNS ON   ADDRESS    NOTE
0      0-1     Running   digits-0      w1        10.0.0.1
1      4-5     Running   digits-1      w2        10.0.0.2
2      2-3     Running   digits-2-r2   w3        10.0.0.3
3      -       Pending   digits-3      -         -          ended 2 times soon after its start, replaced in 20s

CONDITION   STATUS   REASON               SINCE   MESSAGE
Accepted    True     Valid                1h      the spec is valid
Scheduled   False    WaitingForCapacity   5m      pod digits-3 is not scheduled: 0/3 nodes are available: 3 Insufficient
Running     True     Training             4m55s   3 of 4 nodes train in round 2

Last failure: 5m ago, cause: code
  rank 3, pod digits-1 on w2, exit code 1, WorkersFailed
  ValueError: loss is not finite
    Traceback (most recent call last):
      File "train.py", line 9
        raise ValueError"""

NARROW = """\
digits   Running
  3 of 4 nodes train in round 2; pod digits-3
  waits: no room
Namespace:   ml
Time:        created 3h ago, started 1h ago
Progress:    █████████░░░░░░░░░░░░░░░ 40 %, 400 of
             1000 steps, about 1h29m left
Training:    epoch 4, loss 0.25, 812.5 samples/s,
             snapshot of step 380 (1m ago),
             reported 2s ago
Nodes:       3 of 4 wanted nodes train (nnodes
             2:4), world size 6, round 2; 0 of 1
             spares ready
Last change: 5m ago, cause: infrastructure;
             trained again after 5.5 s, 12 steps
             repeated
Restarts:    code 1 of 3, infrastructure 2,
             preemption 0, resize 0
Straggler:   rank 3 (pod digits-1 on w2): the
             others wait 0.31 s of each step of
             0.9 s"""


def job(**status: Any) -> dict[str, Any]:
    return {**JOB, "status": status}


def test_the_screen_of_a_job() -> None:
    assert "\n".join(job_screen(JOB, NOW)) == SCREEN


def test_a_narrow_terminal_wraps_texts() -> None:
    lines = job_screen(JOB, NOW, width=50)
    assert "\n".join(lines[: lines.index("")]) == NARROW


def test_colours_change_no_text_and_take_no_room() -> None:
    painted = job_screen(JOB, NOW, paint=Paint(on=True))
    assert [width_of(line) for line in painted] == [len(line) for line in job_screen(JOB, NOW)]
    assert painted[0] == "\x1b[1mdigits\x1b[0m   \x1b[32mRunning\x1b[0m"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        pytest.param(
            {"status": None},
            [
                *("digits   Pending", "  the operator has not seen the job yet", "Namespace:   ml"),
                *("Time:        created 3h ago", "Nodes:       0 of 4 wanted nodes train (nnodes 2:4)"),
            ],
            id="new",
        ),
        pytest.param(
            {"status": None, "spec": JOB["spec"] | {"managedBy": "example.com/hub"}},
            [
                "digits   Pending",
                "  example.com/hub manages the job, as spec.managedBy says, and has not written its status yet",
                *("Namespace:   ml", "Time:        created 3h ago"),
                "Nodes:       0 of 4 wanted nodes train (nnodes 2:4)",
            ],
            id="of another controller",
        ),
        pytest.param(
            {
                "metadata": JOB["metadata"] | {"generation": 3, "deletionTimestamp": "2026-01-31T12:00:00Z"},
                "status": {
                    "state": "Complete",
                    "observedGeneration": 2,
                    "message": "all\x1b[2J nodes succeeded",
                    "startTime": "2026-01-31T11:00:00Z",
                    "completionTime": "2026-01-31T11:50:00Z",
                    "progress": {"step": 7},
                    "membership": {"desiredNodes": 3, "lastChange": {"time": "2026-01-31T11:59:59Z", "cause": "code"}},
                },
            },
            [
                "digits   Terminating",
                "  all\N{REPLACEMENT CHARACTER}[2J nodes succeeded",
                "  the operator has not seen the last change yet (generation 3, seen 2)",
                "Namespace:   ml",
                "Time:        created 3h ago, started 1h ago, ended 10m ago after 50m",
                "Progress:    7 steps",
                "Nodes:       0 of 3 wanted nodes train (nnodes 2:4)",
                "Last change: 1s ago, cause: code; not trained again yet",
            ],
            id="ended",
        ),
    ],
)
def test_screens_of_other_jobs(change: dict[str, Any], lines: list[str]) -> None:
    assert job_screen(JOB | change, NOW) == lines


def test_of_many_nodes_those_in_trouble_come_first() -> None:
    nodes = [{"index": i, "pod": f"digits-{i}", "phase": "Lost" if i == 70 else "Running"} for i in range(80)]
    lines = job_screen(job(nodes=nodes), NOW)
    first = lines.index("NODE   RANKS   PHASE     POD         RUNS ON   ADDRESS") + 1
    assert lines[first].split() == ["70", "-", "Lost", "digits-70", "-", "-"]
    assert lines[first + 49 :] == ["48     -       Running   digits-48   -         -", "and 30 more: see -o json"]


def test_the_table_of_jobs() -> None:
    new = {"metadata": JOB["metadata"] | {"name": "a", "namespace": "ml"}, "spec": {"nnodes": 2}}
    other = copy.deepcopy(JOB)
    other["metadata"] |= {"namespace": "a", "deletionTimestamp": "2026-01-31T12:00:00Z"}
    del other["status"]["progress"]["totalSteps"]
    message = "3 of 4 nodes train in round 2; pod digits-3 waits: no room"
    assert job_table([JOB, new, other], NOW, namespaces=True) == [
        "NAMESPACE   NAME     STATE         NODES   WORKERS   STEP       RESTARTS   AGE   MESSAGE",
        f"a           digits   Terminating   3/2:4   6         400        3          3h    {message}",
        "ml          a        Pending       0/2     -         -          -          3h",
        f"ml          digits   Running       3/2:4   6         400/1000   3          3h    {message}",
    ]
    assert job_table([JOB], NOW, width=90) == [
        "NAME     STATE     NODES   WORKERS   STEP       RESTARTS   AGE   MESSAGE",
        "digits   Running   3/2:4   6         400/1000   3          3h    3 of 4 nodes train in",
        "                                                                 round 2",
    ]


EVENT: dict[str, Any] = {
    "metadata": {"resourceVersion": "12"},
    "involvedObject": {"kind": "TorchrunJob", "name": "digits"},
    "type": "Warning",
    "reason": "NodeLost",
    "message": "Node 1 (pod digits-1)\nis gone",
    "lastTimestamp": "2026-01-31T11:59:00Z",
    "count": 1,
}


def test_the_table_of_events() -> None:
    events: list[dict[str, Any]] = [
        EVENT | {"metadata": {"resourceVersion": "100"}, "type": "Normal", "reason": "Settled", "message": "all train"},
        EVENT,
        EVENT | {"eventTime": "2026-01-31T11:50:00.123456Z", "lastTimestamp": None, "series": {"count": 4}},
        {"involvedObject": {"kind": "Pod", "name": "digits-0"}},
    ]
    assert event_table(events, NOW) == [
        "LAST SEEN    TYPE      REASON     OBJECT               MESSAGE",
        "-            Normal               pod/digits-0",
        "9m59s (x4)   Warning   NodeLost   torchrunjob/digits   Node 1 (pod digits-1) is gone",
        "1m           Warning   NodeLost   torchrunjob/digits   Node 1 (pod digits-1) is gone",
        "1m           Normal    Settled    torchrunjob/digits   all train",
    ]
    assert event_line(EVENT) == "11:59:00  Warning  NodeLost  torchrunjob/digits  Node 1 (pod digits-1) is gone"


@pytest.mark.parametrize(
    ("status", "pace", "left"),
    [
        (JOB["status"], None, 5397.0),
        (JOB["status"], Pace(100, 50.0), 300.0),
        (JOB["status"], Pace(0, 50.0), None),
        (JOB["status"] | {"state": "Suspended"}, Pace(100, 50.0), None),
        (JOB["status"] | {"progress": {"step": 0, "totalSteps": 9}}, None, None),
        (JOB["status"] | {"progress": {"step": 10, "totalSteps": 9}}, Pace(1, 1.0), None),
        (JOB["status"] | {"startTime": None}, None, None),
        ({}, None, None),
    ],
)
def test_the_time_that_is_left(status: dict[str, Any], pace: Pace | None, left: float | None) -> None:
    assert seconds_left(status, pace) == left


TRAINED = {"since": "2026-01-31T11:00:00Z", "firstStep": 100, "trainingSeconds": 300, "lostSeconds": 100, "ratio": 0.75}


@pytest.mark.parametrize(
    ("status", "left"),
    [
        pytest.param({"state": "Running", "goodput": TRAINED}, 600.0, id="pauses do not count"),
        pytest.param({"state": "Running", "goodput": {"firstStep": 400}}, 5400.0, id="nothing was measured yet"),
        pytest.param({"state": "Suspended", "goodput": TRAINED}, None, id="suspended"),
    ],
)
def test_the_time_that_is_left_with_goodput(status: dict[str, Any], left: float | None) -> None:
    progress = {"step": 400, "totalSteps": 1000, "time": "2026-01-31T12:00:00Z"}
    assert seconds_left({"startTime": "2026-01-31T11:00:00Z", "progress": progress} | status) == left


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, ""),
        ({"goodput": {"trainingSeconds": 0, "lostSeconds": 0}}, ""),
        ({"goodput": TRAINED}, "75 % of the time since the first step: 5m training, 1m40s lost"),
        (
            {"goodput": TRAINED, "state": "Starting", "progress": {"time": "2026-01-31T11:50:00Z"}},
            "30 % of the time since the first step: 5m training, 11m lost",
        ),
    ],
)
def test_goodput(status: dict[str, Any], words: str) -> None:
    assert goodput_words(status, NOW) == words


def test_the_pace_is_measured_within_a_round() -> None:
    watch, found = Stopwatch(), []
    for round_, step, second in [(1, 0, 0), (1, 40, 4), (1, 60, 6), (2, 55, 8), (2, 75, 18), (2, 10, 30), (2, 30, 40)]:
        time = f"2026-01-31T12:00:{second:02d}Z"
        found.append(watch.pace(job(membership={"round": round_}, progress={"step": step, "time": time})))
    assert found == [None, None, Pace(60, 6.0), None, Pace(20, 10.0), None, Pace(20, 10.0)]
    assert watch.pace({}) is None


@pytest.mark.parametrize(
    ("node", "per_node", "ranks"),
    [({"rank": 1}, 8, "8-15"), ({"rank": 1}, 1, "1"), ({"rank": 1}, None, "-"), ({}, 8, "-")],
)
def test_the_ranks_of_a_node(node: dict[str, Any], per_node: int | None, ranks: str) -> None:
    assert ranks_of(node, per_node) == ranks


@pytest.mark.parametrize(
    ("conditions", "ended"),
    [
        ([], False),
        ([{"type": "Complete", "status": "True"}], True),
        ([{"type": "Failed", "status": "True"}], True),
        ([{"type": "Failed", "status": "False"}, {"type": "Running", "status": "True"}], False),
    ],
)
def test_whether_a_job_has_ended(conditions: list[dict[str, Any]], ended: bool) -> None:
    assert has_ended(job(conditions=conditions)) is ended


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (65, "1m5s"), (605, "10m"), (3661, "1h1m"),
        (36061, "10h"), (86400 * 3 + 7200, "3d2h"), (86400 * 30 + 7200, "30d"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31T12:00:00Z", 0.0), ("2026-01-31T12:00:00.5Z", 0.5),
        ("2026-01-31T14:00:01.123456789+02:00", 1.123456),
        ("2026-01-31T12:00:03", 3.0), ("yesterday", None), ("", None), (None, None), (7, None),
    ],
)  # fmt: skip
def test_moments(text: object, seconds: float | None) -> None:
    found = moment(text)
    assert (found - NOW).total_seconds() == seconds if found is not None else seconds is None
    assert age(text, NOW) == ("-" if seconds is None else "0s")


def test_tables() -> None:
    assert table(["A", "B"], [["x", "y z"], ["long", ""]]) == ["A      B", "x      y z", "long"]
    assert table(["A", "B"], [["x", "one two three four five six"]], width=24) == [
        "A   B",
        "x   one two three four",
        "    five six",
    ]
    assert wrapped("alongword b", 4) == ["alongword", "b"]


PLAIN = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "metadata": {"name": "ä"}}


@pytest.mark.parametrize(
    ("output", "many", "text"),
    [
        ("name", True, "torchrunjob.torchrun.dev/ä\n"),
        (
            "json",
            False,
            """{
    "apiVersion": "torchrun.dev/v1alpha1",
    "kind": "TorchrunJob",
    "metadata": {
        "name": "ä"
    }
}
""",
        ),
        (
            "yaml",
            True,
            """apiVersion: v1
kind: List
metadata: {}
items:
- apiVersion: torchrun.dev/v1alpha1
  kind: TorchrunJob
  metadata:
    name: ä
""",
        ),
    ],
)
def test_formats(output: str, many: bool, text: str) -> None:
    managed = PLAIN | {"metadata": {"name": "ä", "managedFields": [{"manager": "x"}]}}
    assert formatted([managed], output, many=many) == text
