"""The errors of failed workers, as torchrun, Python and Kubernetes write them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from torchrun_operator.core.facts.words import Words, earliest, of_log, of_termination

AT = datetime(2026, 1, 31, 12, 0, 1, 250000, tzinfo=UTC)


def line(text: str, seconds: float = 1.25) -> str:
    """Return a line of a log as Kubernetes returns it, that many seconds after noon."""
    return f"2026-01-31T12:00:{seconds:012.9f}Z {text}\n"


def lines(text: str, seconds: float = 1.25) -> str:
    return "".join(line(each, seconds) for each in text.splitlines())


TRACEBACK = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 23, in <module>
    raise RuntimeError("the learning rate is a banana")
RuntimeError: the learning rate is a banana"""
PLAIN = Words("RuntimeError: the learning rate is a banana", TRACEBACK, time=AT)
END = "E0131 12:00:01.900000 7 torch/distributed/elastic/multiprocessing/api.py:984] "
FAILED = END + "failed (exitcode: 1) local_rank: 0 (pid: 21) of binary: /usr/local/bin/python3"
KILLED = END + "failed (exitcode: -9) local_rank: 1 (pid: 22) of binary: /usr/local/bin/python3"
CLOSING = (
    "W0131 12:00:01.800000 7 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 22 closing signal"
)
AGENT = """\
Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 21)
============================================================"""
PEER = """\
Traceback (most recent call last):
  File "/workspace/train.py", line 25, in <module>
    dist.all_reduce(ones)
RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.78.1.4]:31337"""


def ranked(text: str, rank: int) -> str:
    return "\n".join(f"[rank{rank}]: {each}" for each in text.splitlines())


LOGS: dict[str, tuple[str, dict[str, Any], Words | None]] = {
    "nothing": ("", {}, None),
    "no failure": (line("step=1") + line("step=2"), {}, None),
    "lines without a time": (TRACEBACK, {}, None),
    "a traceback": (lines(TRACEBACK), {}, PLAIN),
    "a traceback and what the agent says": (
        lines(TRACEBACK) + line(FAILED, 1.9),
        {},
        Words(PLAIN.message, PLAIN.traceback, exit_code=1, local_rank=0, time=AT),
    ),
    "with ranks, mixed with another's": (
        "".join(
            a + b
            for a, b in zip(
                lines(ranked(PEER, 1), 1.5).splitlines(keepends=True),
                lines(ranked(TRACEBACK, 3)).splitlines(keepends=True),
                strict=True,
            )
        ),
        {},
        Words(PLAIN.message, PLAIN.traceback, rank=3, time=AT),
    ),
    "with torchrun's --tee": (
        lines("\n".join(f"[default0]:{each}" for each in ranked(TRACEBACK, 3).splitlines())),
        {},
        Words(PLAIN.message, PLAIN.traceback, rank=3, time=AT),
    ),
    "killed by a signal, without a message": (line(KILLED), {}, Words(exit_code=-9, local_rank=1, time=AT)),
    "killed, and an echo of it": (
        lines(PEER) + line(KILLED, 1.3),
        {},
        Words(exit_code=-9, local_rank=1, time=AT.replace(microsecond=300000)),
    ),
    "ended without a message, and an echo of it": (
        lines(PEER) + line(FAILED, 1.28) + line(FAILED.replace("exitcode: 1", "exitcode: 3"), 1.3),
        {},
        Words(exit_code=3, local_rank=0, time=AT.replace(microsecond=300000)),
    ),
    "an echo and how it ended": (
        lines(PEER) + line(FAILED, 1.3),
        {},
        Words(PEER.splitlines()[-1], PEER, exit_code=1, local_rank=0, time=AT),
    ),
    "several errors of one worker: the last one": (
        lines(TRACEBACK.replace("banana", "kiwi"), 1)
        + lines(TRACEBACK.replace("banana", "plum"), 20)
        + lines(TRACEBACK, 21),
        {},
        Words(PLAIN.message, PLAIN.traceback, time=AT.replace(second=21, microsecond=0)),
    ),
    "errors of several workers: the first one": (
        lines(ranked(TRACEBACK.replace("banana", "kiwi"), 1), 1)
        + lines(ranked(TRACEBACK, 3), 20)
        + lines(ranked(TRACEBACK.replace("banana", "plum"), 2), 21),
        {},
        Words(PLAIN.message, PLAIN.traceback, rank=3, time=AT.replace(second=20, microsecond=0)),
    ),
    "several failures that the agent reported: the newest": (
        lines(TRACEBACK, 1) + line(FAILED, 1.1) + line("starting", 2) + line("no data", 2.1) + line(FAILED, 2.2),
        {},
        Words(
            "no data",
            "starting\nno data",
            exit_code=1,
            local_rank=0,
            time=AT.replace(second=2, microsecond=100000),
            guessed=True,
        ),
    ),
    "the agent stops the other workers, and one of them has words": (
        lines(TRACEBACK, 1) + line(CLOSING, 1.1) + lines(TRACEBACK.replace("banana", "plum"), 2) + line(FAILED, 2.1),
        {},
        Words(PLAIN.message, PLAIN.traceback, exit_code=1, local_rank=0, time=AT.replace(second=1, microsecond=0)),
    ),
    "the agent restarted the workers a moment ago": (
        line(CLOSING, 1.1) + lines(TRACEBACK, 2) + line(FAILED, 2.1),
        {},
        Words(PLAIN.message, PLAIN.traceback, exit_code=1, local_rank=0, time=AT.replace(second=2, microsecond=0)),
    ),
    "the agent continues, and no worker has failed": (
        line("step 1") + line("bash: trainn: command not found"),
        {},
        None,
    ),
    "the container has ended": (
        line("step 1") + line("bash: trainn: command not found"),
        {"ended": True},
        Words("bash: trainn: command not found", "step 1\nbash: trainn: command not found", time=AT, guessed=True),
    ),
    "the container has ended, and its agent says no more than that": (
        lines(TRACEBACK) + line(FAILED, 1.9) + lines(AGENT, 2),
        {"ended": True},
        Words(PLAIN.message, PLAIN.traceback, exit_code=1, local_rank=0, time=AT),
    ),
    "the container has ended by an error after the one that its agent reported": (
        lines(TRACEBACK.replace("banana", "plum"), 1) + line(FAILED, 1.1) + lines(TRACEBACK, 9),
        {"ended": True},
        Words(PLAIN.message, PLAIN.traceback, time=AT.replace(second=9, microsecond=0)),
    ),
    "another time zone": (
        lines(TRACEBACK).replace("T12:", "T17:").replace("Z ", "+05:00 "),
        {},
        Words(PLAIN.message, PLAIN.traceback, time=AT),
    ),
    "stopped by its agent": (
        line("step 1") + line(FAILED.replace("exitcode: 1", "exitcode: -15")),
        {},
        Words(exit_code=-15, local_rank=0, time=AT),
    ),
    "an echo does not hide the cause": (
        lines(PEER, 1) + lines(TRACEBACK),
        {},
        PLAIN,
    ),
    "nothing but an echo": (
        lines(PEER),
        {},
        Words(PEER.splitlines()[-1], PEER, time=AT),
    ),
    "cut off in the middle": (lines("\n".join(TRACEBACK.splitlines()[:2])), {}, None),
}


@pytest.mark.parametrize(("text", "bounds", "expected"), LOGS.values(), ids=LOGS)
def test_of_log(text: str, bounds: dict[str, Any], expected: Words | None) -> None:
    assert of_log(text, **bounds) == expected


def test_words_of_a_log_are_bounded() -> None:
    frames = "\n".join(f'  File "deep.py", line {number}, in dive' for number in range(500))
    found = of_log(lines(f"Traceback (most recent call last):\n{frames}\nValueError: {'x' * 9000}"))
    assert found is not None
    assert len(found.message) == 500
    assert len(found.traceback) <= 2000
    assert (found.traceback[:9], found.traceback[-3:]) == ("Traceback", "xxx")


ERROR_FILE = (
    '{"message": {"message": "ValueError: bad loss", "extraInfo": {"py_callstack": "Traceback (most recent call last):'
    '\\n  File \\"train.py\\", line 3, in main\\nValueError: bad loss\\n", "timestamp": "1795242581"}}}'
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", Words()),
        (
            "a\nb\n" + TRACEBACK + "\nb\n",
            Words(PLAIN.message, TRACEBACK),
        ),
        (
            "loading\nstep 1\nstep 2\n\nno data in /data\n",
            Words("no data in /data", "loading\nstep 1\nstep 2\nno data in /data"),
        ),
        ("\n  plain words \nmore", Words("plain words")),
        ('{"message": "just text"}', Words("just text")),
        ('{"other": 1}', Words('{"other": 1}')),
        ("[1]", Words("[1]")),
        (
            ERROR_FILE,
            Words(
                "ValueError: bad loss",
                'Traceback (most recent call last):\n  File "train.py", line 3, in main\nValueError: bad loss',
            ),
        ),
        (ERROR_FILE[60:], Words("ValueError: bad loss")),
    ],
)
def test_of_termination(message: str, expected: Words) -> None:
    assert of_termination(message) == expected


def test_earliest() -> None:
    echo = Words(PEER.splitlines()[-1], time=AT.replace(second=0))
    later = Words("ValueError", time=AT.replace(second=5))
    silent = Words(exit_code=-9, time=AT.replace(second=0))
    assert earliest([("a", later), ("b", echo), ("c", PLAIN), ("d", silent)]) == ("c", PLAIN)
    assert earliest([("b", echo), ("d", silent)]) == ("d", silent)
    assert earliest([("b", echo)]) == ("b", echo)
    last_line = Words("step 3", time=AT.replace(second=0), guessed=True)
    assert earliest([("a", later), ("b", echo), ("e", last_line)]) == ("a", later)
    assert earliest([("b", echo), ("d", silent), ("e", last_line)]) == ("d", silent)
    assert earliest([("b", echo), ("e", last_line)]) == ("e", last_line)
    assert earliest([]) is None


@pytest.mark.parametrize(
    "place", ["", ".venv/lib/python3.11/site-packages/", "/opt/conda/lib/python3.12/site-packages/"]
)
def test_an_agent_names_its_file_by_a_path_that_depends_on_the_working_directory(place: str) -> None:
    lines = (
        f"W0131 12:00:01.800000 7 {place}torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 22 "
        "closing signal SIGTERM\n"
        f"E0131 12:00:01.900000 7 {place}torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 3) "
        "local_rank: 1 (pid: 2) of binary: python\n"
    )
    log = "".join(f"2026-01-31T12:00:02.{i}Z {line}\n" for i, line in enumerate(lines.splitlines()))
    found = of_log(log)
    assert found is not None
    assert replace(found, time=None) == Words(exit_code=3, local_rank=1)
