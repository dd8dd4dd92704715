"""The life of a job as a picture in a terminal."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from torchrun_cli.show.style import PLAIN, Paint
from torchrun_cli.show.table import table
from torchrun_cli.show.timeline import Phase, Round, Timeline
from torchrun_cli.show.times import duration

_SIGNS: Final = {
    Phase.UNKNOWN: "?",
    Phase.STARTING: "░",
    Phase.TRAINING: "█",
    Phase.RECOVERING: "x",
    Phase.RESIZING: "▒",
    Phase.SUSPENDED: "-",
    Phase.COMPLETE: "█",
    Phase.FAILED: "X",
}
_BAR: Final = 80
_HEIGHTS: Final = "▁▂▃▄▅▆▇█"


def timeline_lines(found: Timeline, *, paint: Paint = PLAIN, width: int | None = None) -> list[str]:
    """Return the picture for a terminal: a bar, what its signs mean, and what happened when."""
    length = (found.end - found.begin).total_seconds()
    columns = min(width or _BAR, 160)
    lines = [
        f"{paint.bold(found.name)}   {paint.state(found.state)}",
        f"{found.begin:%Y-%m-%d %H:%M:%S} to {found.end:%H:%M:%S} UTC, {duration(length)}"
        + (f", {found.steps}" if found.steps else ""),
        "",
        "".join(_painted(_SIGNS[phase], phase, paint) for phase in _columns(found, columns)),
        ", ".join(
            f"{_painted(_SIGNS[phase], phase, paint)} {phase} {duration(found.seconds(phase))}"
            for phase in Phase
            if found.seconds(phase)
        ),
    ]
    lines[-1:-1] = chart_rows(found, columns)
    lines += [f"restarts: {found.losses}"] if found.losses else []
    if found.rounds:
        lines += ["", *round_table(found, paint, width)]
    if not found.marks:
        return [*lines, "", "The cluster has no events of this job any more."]
    rows = [
        [
            f"+{duration((mark.time - found.begin).total_seconds())}",
            paint.warn(mark.reason) if mark.warning else mark.reason,
            mark.text,
        ]
        for mark in found.marks
    ]
    return [*lines, "", *table(["TIME", "REASON", "MESSAGE"], rows, paint=paint, width=width)]


def _columns(found: Timeline, columns: int) -> Iterator[Phase]:
    """Yield the phase of each column. A short phase other than training keeps a column: it is what one looks for."""
    length = (found.end - found.begin).total_seconds()
    if length <= 0 or not found.parts:
        return
    bar = [Phase.UNKNOWN] * columns
    for part in sorted(found.parts, key=lambda part: part.phase is not Phase.TRAINING):
        first = int((part.begin - found.begin).total_seconds() / length * columns)
        last = int((part.end - found.begin).total_seconds() / length * columns)
        for column in range(min(first, columns - 1), min(max(last, first + 1), columns)):
            bar[column] = part.phase
    yield from bar


def _painted(sign: str, phase: Phase, paint: Paint) -> str:
    if phase in (Phase.TRAINING, Phase.COMPLETE):
        return paint.good(sign)
    if phase in (Phase.RECOVERING, Phase.FAILED):
        return paint.bad(sign)
    return paint.warn(sign) if phase is Phase.RESIZING else paint.dim(sign)


def chart_rows(found: Timeline, columns: int) -> list[str]:
    """Return a row with the nodes of each round, and one with the steps over time, below the bar. Empty: unknown."""
    if not found.rounds or found.end <= found.begin:
        return []
    most = max(each.nodes for each in found.rounds)
    moments = [found.begin + (found.end - found.begin) * ((column + 0.5) / columns) for column in range(columns)]
    nodes = [each.nodes if (each := _round_at(found, when)) is not None else None for when in moments]
    sizes = sorted({each.nodes for each in found.rounds})
    rows = ["".join(_height(amount, most) for amount in nodes)]
    words = f"below the bar: nodes ({sizes[0]} to {sizes[-1]})" if len(sizes) > 1 else f"below the bar: {most} nodes"
    points = step_points(found)
    if points:
        steps = [step_at(points, when) for when in moments]
        top = max(step for _, step in points)
        rows.append("".join(_height(step, top) for step in steps))
        words += f", steps (up to {top})"
    return [*rows, words]


def _height(amount: float | None, most: float) -> str:
    if amount is None:
        return " "
    return _HEIGHTS[min(int(amount / most * len(_HEIGHTS)), len(_HEIGHTS) - 1)] if most else _HEIGHTS[0]


def _round_at(found: Timeline, when: datetime) -> Round | None:
    return next((each for each in reversed(found.rounds) if each.begin <= when), None)


def step_points(found: Timeline) -> list[tuple[datetime, int]]:
    """Return when which step was done, as far as the rounds tell. Empty: the script reports none."""
    points = [(each.begin, each.step or 0) for each in found.rounds]
    last = found.rounds[-1].last_step if found.rounds else None
    return [*points, (found.end, last)] if last is not None else []


def step_at(points: list[tuple[datetime, int]], when: datetime) -> float | None:
    """Return the step at a moment, on the line between two points. None: before the first one."""
    before = next(((time, step) for time, step in reversed(points) if time <= when), None)
    after = next(((time, step) for time, step in points if time > when), None)
    if before is None or after is None:
        return before[1] if before is not None else None
    part = (when - before[0]) / max(after[0] - before[0], timedelta(microseconds=1))
    return before[1] + (after[1] - before[1]) * part


def round_table(found: Timeline, paint: Paint, width: int | None) -> list[str]:
    """Return the table of the rounds: when each began, with how many nodes and why, and its steps."""
    rows = [
        [
            str(each.number),
            f"+{duration((each.begin - found.begin).total_seconds())}",
            duration((each.end - each.begin).total_seconds()),
            str(each.nodes),
            "-" if each.last_step is None else f"{each.step or 0}-{each.last_step}",
            paint.warn(each.cause) if each.cause else "-",
        ]
        for each in found.rounds
    ]
    return table(["ROUND", "BEGAN", "FOR", "NODES", "STEPS", "AFTER"], rows, paint=paint, width=width)
