"""Log lines: their fields, their job, and errors that must not break them."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from torchrun_operator.telemetry.logs import configure_logging, job_context

KOPF_REF = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob", "name": "j", "uid": "u", "namespace": "ns"}
POD_REF = {"apiVersion": "v1", "kind": "Pod", "name": "j-0", "uid": "p", "namespace": "ns"}


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    names = ("kopf.objects", "aiohttp.access", "asyncio")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def start(style: Literal["json", "text"] = "json", level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, style, stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "time"}


@pytest.mark.parametrize(
    ("message", "args", "extra", "expected"),
    [
        ("plain", (), {}, {"message": "plain"}),
        ("%d of %s", (2, "3"), {}, {"message": "2 of 3"}),
        ("two\nlines é", (), {}, {"message": "two\nlines é"}),
        ("x", (), {"round": 4, "nodes": ["a"]}, {"message": "x", "round": 4, "nodes": ["a"]}),
        ("x", (), {"at": datetime(2026, 1, 2, tzinfo=UTC)}, {"message": "x", "at": "2026-01-02 00:00:00+00:00"}),
        ("x", (), {"thing": Hostile()}, {"message": "x", "thing": "<Hostile>"}),
        ("x", (), {"level": "forged", "job": "forged"}, {"message": "x", "job": "forged"}),
        ("%d wrong", ("text",), {}, {"message": "%d wrong ('text',)"}),
        ("y" * 40_000, (), {}, {"message": "y" * 32_768 + "... (40000 characters)"}),
        (
            "kopf's own",
            (),
            {"k8s_ref": KOPF_REF, "k8s_skip": True, "settings": object()},
            {"message": "kopf's own", "job": {"namespace": "ns", "name": "j", "uid": "u"}},
        ),
        (
            "of a pod",
            (),
            {"k8s_ref": POD_REF},
            {"message": "of a pod", "object": {"kind": "Pod", "namespace": "ns", "name": "j-0", "uid": "p"}},
        ),
        ("nothing known", (), {"k8s_ref": {"kind": None, "name": None}}, {"message": "nothing known"}),
    ],
)
def test_a_line(message: str, args: tuple[Any, ...], extra: dict[str, Any], expected: dict[str, Any]) -> None:
    stream = start()
    logging.getLogger("some.where").info(message, *args, extra=extra)
    (line,) = lines(stream)
    assert without_time(line) == {"level": "INFO", "logger": "some.where"} | expected
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert len(line["time"]) == len("2026-01-02T03:04:05.678Z")


def test_an_exception_is_one_field() -> None:
    stream = start()
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("a").exception("failed")
    (line,) = lines(stream)
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert line["exception"].endswith("ValueError: inner")


async def test_tasks_carry_the_job_they_were_started_for() -> None:
    stream = start()
    logger = logging.getLogger("a")
    proceed = asyncio.Event()

    async def work(name: str) -> None:
        with job_context("ns", name, uid=f"uid-{name}"):
            await proceed.wait()
            await asyncio.create_task(inner(name))
        logger.info("after %s", name)

    async def inner(name: str) -> None:
        logger.info("in %s", name)

    tasks = [asyncio.create_task(work(name)) for name in ("a", "b")]
    proceed.set()
    await asyncio.gather(*tasks)
    assert {line["message"]: line.get("job") for line in lines(stream)} == {
        "in a": {"namespace": "ns", "name": "a", "uid": "uid-a"},
        "in b": {"namespace": "ns", "name": "b", "uid": "uid-b"},
        "after a": None,
        "after b": None,
    }


def test_the_uid_may_be_unknown_and_contexts_nest() -> None:
    stream = start()
    logger = logging.getLogger("a")
    with job_context("ns", "outer"):
        with job_context("ns", "inner", "u"):
            logger.info("1")
        logger.info("2")
    assert [line["job"] for line in lines(stream)] == [
        {"namespace": "ns", "name": "inner", "uid": "u"},
        {"namespace": "ns", "name": "outer"},
    ]


def test_text_for_people() -> None:
    stream = start("text")
    with job_context("ns", "j", "u"):
        logging.getLogger("a.b").warning("slow", extra={"seconds": 3})
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("a").exception("failed")
    first, second, *trace = stream.getvalue().splitlines()
    assert first.split(" ", 1)[1] == "WARNING a.b [ns/j] slow seconds=3"
    assert second.split(" ", 1)[1] == "ERROR   a failed"
    assert trace[-1] == "ValueError: inner"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("DEBUG", ["a DEBUG", "a INFO", "a WARNING", "kopf.objects INFO", "kopf.objects WARNING"]),
        ("INFO", ["a INFO", "a WARNING", "kopf.objects WARNING"]),
        ("WARNING", ["a WARNING", "kopf.objects WARNING"]),
        ("ERROR", []),
    ],
)
def test_levels_and_the_noise_of_libraries(level: str, expected: list[str]) -> None:
    stream = start(level=level)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("a").log(severity, "x")
    for severity in (logging.INFO, logging.WARNING):
        logging.getLogger("kopf.objects").log(severity, "x")
    assert [f"{line['logger']} {line['level']}" for line in lines(stream)] == expected


def test_configuring_again_replaces_the_handler() -> None:
    old, new = start(), start()
    logging.getLogger("a").info("once")
    assert (len(lines(old)), len(lines(new))) == (0, 1)
