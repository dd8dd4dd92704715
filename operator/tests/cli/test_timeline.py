"""The life of a job: phases from the reasons of events, the bar in a terminal, and the picture."""

from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from torchrun_cli.show.style import Paint, width_of
from torchrun_cli.show.timeline import Mark, Part, Phase, Round, Timeline, timeline
from torchrun_cli.show.timeline_lines import timeline_lines
from torchrun_cli.show.timeline_svg import timeline_svg

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def event(seconds: float, reason: str, message: str = "", type_: str = "Normal", **about: str) -> dict[str, Any]:
    return {
        "involvedObject": {"kind": "TorchrunJob", "name": "digits", "uid": "u"} | about,
        "type": type_,
        "reason": reason,
        "message": message,
        "lastTimestamp": at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def job(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "digits", "uid": "u", "creationTimestamp": "2026-01-31T11:59:00Z"},
        "status": {"startTime": "2026-01-31T12:00:00Z", **status},
    }


LIFE = [
    event(10, "Training", "3 of 3 nodes train in round 0"),
    event(40, "NodeLost", "Node 1 (pod digits-1) was <killed>\n; cause: infrastructure", "Warning"),
    event(45, "Settled", "all nodes train"),
    event(60, "ReplicasChanged", "from 3 to 2"),
    event(65, "NodeRemoved", "Pod digits-2 is removed"),
    event(68, "Settled", "all nodes train"),
    event(100, "Finished", "all nodes succeeded"),
]
ENDED = job(state="Complete", completionTime="2026-01-31T12:01:40Z", progress={"step": 9, "totalSteps": 9})


@pytest.mark.parametrize(
    ("found", "events", "parts"),
    [
        pytest.param(
            ENDED,
            LIFE,
            [
                *((0, 10, Phase.STARTING), (10, 40, Phase.TRAINING), (40, 45, Phase.RECOVERING)),
                *((45, 60, Phase.TRAINING), (60, 68, Phase.RESIZING), (68, 100, Phase.TRAINING)),
            ],
            id="a whole life",
        ),
        pytest.param(
            job(state="Running"),
            [event(20, "NodeLost"), event(30, "Settled")],
            [(0, 20, Phase.UNKNOWN), (20, 30, Phase.RECOVERING), (30, 200, Phase.TRAINING)],
            id="the first events are gone",
        ),
        pytest.param(job(state="Running"), [], [(0, 200, Phase.UNKNOWN)], id="all events are gone"),
        pytest.param(job(), [], [(0, 200, Phase.STARTING)], id="a new job"),
        pytest.param(
            job(state="Failed", completionTime="2026-01-31T12:00:30Z"),
            [
                event(10, "Training"),
                event(25, "WorkersFailed"),
                event(30, "MaxRestartsExceeded"),
                event(31, "Training"),
            ],
            [(0, 10, Phase.STARTING), (10, 25, Phase.TRAINING), (25, 30, Phase.RECOVERING)],
            id="nothing follows the end",
        ),
        pytest.param(
            job(state="Running"),
            [event(10, "Training"), event(20, "Suspended"), event(50, "NotSuspended"), event(60, "Training")],
            [
                *((0, 10, Phase.STARTING), (10, 20, Phase.TRAINING), (20, 50, Phase.SUSPENDED)),
                *((50, 60, Phase.STARTING), (60, 200, Phase.TRAINING)),
            ],
            id="suspended",
        ),
        pytest.param(
            job(),
            [event(10, "Training", uid="earlier"), event(10, "Training", kind="Pod"), event(12, "Training")],
            [(0, 12, Phase.STARTING), (12, 200, Phase.TRAINING)],
            id="events of others",
        ),
    ],
)
def test_the_parts_of_a_life(
    found: dict[str, Any], events: list[dict[str, Any]], parts: list[tuple[int, int, Phase]]
) -> None:
    result = timeline(found, events, at(200))
    assert list(result.parts) == [Part(at(begin), at(end), phase) for begin, end, phase in parts]


def test_a_start_long_ago_is_unknown() -> None:
    first = timeline(job(state="Running"), [event(4000, "Training")], at(5000)).parts[0]
    assert first == Part(at(0), at(4000), Phase.UNKNOWN)


def test_the_picture_for_a_terminal() -> None:
    lines = timeline_lines(timeline(ENDED, LIFE, at(500)), width=50)
    assert lines == [
        "digits   Complete",
        "2026-01-31 12:00:00 to 12:01:40 UTC, 1m40s, 9 of 9 steps",
        "",
        "░░░░░███████████████xx████████▒▒▒▒████████████████",
        "░ starting 10s, █ training 1m17s, x recovering 5s, ▒ resizing 8s",
        "",
        "TIME     REASON            MESSAGE",
        "+10s     Training          3 of 3 nodes train in",
        "                           round 0",
        "+40s     NodeLost          Node 1 (pod digits-1)",
        "                           was <killed> ; cause:",
        "                           infrastructure",
        "+45s     Settled           all nodes train",
        "+1m      ReplicasChanged   from 3 to 2",
        "+1m5s    NodeRemoved       Pod digits-2 is removed",
        "+1m8s    Settled           all nodes train",
        "+1m40s   Finished          all nodes succeeded",
    ]
    painted = timeline_lines(timeline(ENDED, LIFE, at(500)), width=50, paint=Paint(on=True))
    assert [width_of(line) for line in painted] == [len(line) for line in lines]


ROUNDS = [
    {"round": 0, "nodes": 3, "began": "2026-01-31T12:00:10Z"},
    {"round": 1, "nodes": 2, "began": "2026-01-31T12:00:45Z", "step": 5, "cause": "infrastructure"},
    {"round": 2, "nodes": 3, "began": "2026-01-31T12:01:08Z", "step": 7, "cause": "resize"},
]
WITH_ROUNDS = job(**ENDED["status"], rounds=ROUNDS, restarts={"code": 0, "infrastructure": 1, "resize": 1})


def test_rounds_come_from_the_status() -> None:
    found = timeline(WITH_ROUNDS, [], at(500))
    assert found.rounds == (
        Round(0, at(10), at(45), 3, None, 5, ""),
        Round(1, at(45), at(68), 2, 5, 7, "infrastructure"),
        Round(2, at(68), at(100), 3, 7, 9, "resize"),
    )
    assert found.losses == "infrastructure 1, resize 1"
    assert timeline(job(rounds=[{"round": 0}, {"began": "never"}]), [], at(9)).rounds == ()


def test_the_rounds_in_a_terminal() -> None:
    lines = timeline_lines(timeline(WITH_ROUNDS, LIFE, at(500)), width=50)
    assert lines[3:14] == [
        "░░░░░███████████████xx████████▒▒▒▒████████████████",
        "     █████████████████▆▆▆▆▆▆▆▆▆▆▆▆████████████████",
        "     ▁▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▅▅▅▅▅▆▆▆▆▆▆▆▇▇▇▇▇▇▇▇█████████",
        "below the bar: nodes (2 to 3), steps (up to 9)",
        "░ starting 10s, █ training 1m17s, x recovering 5s, ▒ resizing 8s",
        "restarts: infrastructure 1, resize 1",
        "",
        "ROUND   BEGAN   FOR   NODES   STEPS   AFTER",
        "0       +10s    35s   3       0-5     -",
        "1       +45s    23s   2       5-7     infrastructure",
        "2       +1m8s   32s   3       7-9     resize",
    ]
    silent = job(state="Running", rounds=ROUNDS[:1])
    assert timeline_lines(timeline(silent, LIFE[:1], at(20)), width=20)[4:6] == [
        "          ██████████",
        "below the bar: 3 nodes",
    ]


def test_a_short_loss_keeps_a_column() -> None:
    events = [event(1, "Training"), event(1800, "NodeLost"), event(1803, "Settled")]
    lines = timeline_lines(timeline(job(), events, at(3600)), width=40)
    assert lines[3] == "░" + "█" * 19 + "x" + "█" * 19


def test_a_job_without_events() -> None:
    lines = timeline_lines(timeline(job(), [], BEGIN))
    assert lines[3:] == ["", "", "", "The cluster has no events of this job any more."]


SVG = "{http://www.w3.org/2000/svg}"


def test_the_svg() -> None:
    text = "x" * 200 + "&"
    found = timeline(ENDED, [*LIFE, event(100, "Note", f"{text}\x1b[2J")], at(500))
    root = Xml.fromstring(timeline_svg(found))
    bars = [each for each in root.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]
    assert [(bar.get("x"), bar.get("width"), bar[0].text) for bar in bars] == [
        ("20.0", "92.0", "starting for 10s"),
        ("112.0", "276.0", "training for 30s"),
        ("388.0", "46.0", "recovering for 5s"),
        ("434.0", "138.0", "training for 15s"),
        ("572.0", "73.6", "resizing for 8s"),
        ("645.6", "294.4", "training for 32s"),
    ]
    texts = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert texts[:2] == ["digits: Complete", "2026-01-31 12:00:00 to 12:01:40 UTC, 9 of 9 steps"]
    assert "+40s  NodeLost: Node 1 (pod digits-1) was <killed> ; cause: infrastructure" in texts
    assert max(map(len, texts)) == 130
    assert len(list(root.iter(f"{SVG}path"))) == 8


def test_the_rounds_in_the_svg() -> None:
    root = Xml.fromstring(timeline_svg(timeline(WITH_ROUNDS, [], at(500))))
    bars = [each for each in root.iter(f"{SVG}rect") if (each.findtext(f"{SVG}title") or "").startswith("round")]
    assert [(bar.get("x"), bar.get("height"), bar[0].text) for bar in bars] == [
        ("112.0", "80.0", "round 0: 3 nodes for 35s"),
        ("434.0", "53.3", "round 1: 2 nodes for 23s, after infrastructure"),
        ("645.6", "80.0", "round 2: 3 nodes for 32s, after resize"),
    ]
    line = root.find(f"{SVG}polyline")
    assert line is not None
    assert line.get("points") == "112.0,228.0 434.0,183.6 645.6,165.8 940.0,148.0"
    assert "step 9" in [each.text for each in root.iter(f"{SVG}text")]


def test_an_empty_life_is_a_picture_too() -> None:
    empty = Timeline("a", "Pending", BEGIN, BEGIN, (), (Mark(BEGIN, "r", "t"),), "")
    assert Xml.fromstring(timeline_svg(empty)).tag == f"{SVG}svg"
