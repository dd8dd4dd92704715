"""The life of a job as an SVG picture."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from html import escape
from typing import Final, NamedTuple

from torchrun_cli.show.timeline import Mark, Part, Phase, Timeline
from torchrun_cli.show.timeline_lines import step_points
from torchrun_cli.show.times import duration

_WIDTH, _MARGIN = 960, 20
_COLOURS: Final = {
    Phase.UNKNOWN: "#d0d7de",
    Phase.STARTING: "#9ecae1",
    Phase.TRAINING: "#2da44e",
    Phase.RECOVERING: "#cf222e",
    Phase.RESIZING: "#d4a72c",
    Phase.SUSPENDED: "#8250df",
    Phase.COMPLETE: "#2da44e",
    Phase.FAILED: "#82071e",
}
_BAR_TOP, _BAR_HEIGHT, _LINE = 76, 34, 20
_LIST_TOP = _BAR_TOP + _BAR_HEIGHT + 70
_CHART_TOP, _CHART_HEIGHT, _CHART_ROOM = _BAR_TOP + _BAR_HEIGHT + 38, 80, 100
"""The nodes and steps of the rounds, if there are any: they push down what follows."""
_TICKS: Final = 6
_WIDEST_LABEL: Final = 56
_MOST_MARKS: Final = 200
_LONGEST: Final = 130
"""Characters of a line."""


class _Scale(NamedTuple):
    """Where moments are in the picture."""

    begin: datetime
    length: float

    def x(self, when: datetime) -> float:
        """Return the column of a moment."""
        part = (when - self.begin).total_seconds() / self.length
        return _MARGIN + min(max(part, 0.0), 1.0) * (_WIDTH - 2 * _MARGIN)


def timeline_svg(found: Timeline) -> str:
    """Return the picture: a bar of the phases, a tick for each event, and the list of the events."""
    scale = _Scale(found.begin, max((found.end - found.begin).total_seconds(), 1.0))
    shown = found.marks[-_MOST_MARKS:]
    down = _CHART_ROOM if found.rounds else 0
    height = _LIST_TOP + down + _LINE * len(shown) + _MARGIN
    size = f'viewBox="0 0 {_WIDTH} {height}"'
    title = escape(f"{found.name}: {found.state}")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" fill="#24292f">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="30" font-size="18" font-weight="bold">{title}</text>',
        f'<text x="{_MARGIN}" y="52">{escape(_heading(found))}</text>',
        *(_part(part, scale) for part in found.parts),
        *_axis(scale),
        *_chart(found, scale),
        f'<g transform="translate(0 {down})">',
        *_legend(found),
        *(_listed(mark, number, scale) for number, mark in enumerate(shown)),
        "</g>",
        *(_tick(mark, scale) for mark in shown),
    ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _part(part: Part, scale: _Scale) -> str:
    begin, end = scale.x(part.begin), scale.x(part.end)
    place = f'x="{begin:.1f}" y="{_BAR_TOP}" width="{max(end - begin, 1.0):.1f}" height="{_BAR_HEIGHT}"'
    words = f"{part.phase} for {duration(part.seconds)}"
    return f'<rect {place} fill="{_COLOURS[part.phase]}"><title>{words}</title></rect>'


def _axis(scale: _Scale) -> Iterator[str]:
    for number in range(_TICKS + 1):
        seconds = scale.length * number / _TICKS
        column = scale.x(scale.begin + timedelta(seconds=seconds))
        anchor = "start" if number == 0 else "end" if number == _TICKS else "middle"
        place = f'x="{column:.1f}" y="{_BAR_TOP + _BAR_HEIGHT + 22}" text-anchor="{anchor}"'
        yield f'<text {place} fill="#57606a">+{duration(seconds)}</text>'


def _legend(found: Timeline) -> Iterator[str]:
    phases = [phase for phase in Phase if found.seconds(phase)]
    for number, phase in enumerate(phases):
        left, top = _MARGIN + 160 * number, _LIST_TOP - 30
        yield f'<rect x="{left}" y="{top}" width="12" height="12" fill="{_COLOURS[phase]}"/>'
        yield f'<text x="{left + 18}" y="{top + 11}">{phase} {duration(found.seconds(phase))}</text>'


def _tick(mark: Mark, scale: _Scale) -> str:
    path = f"M{scale.x(mark.time):.1f} {_BAR_TOP - 8}v{_BAR_HEIGHT + 16}"
    return f'<path d="{path}" stroke="{_colour(mark)}"><title>{escape(_words(mark, scale))}</title></path>'


def _listed(mark: Mark, number: int, scale: _Scale) -> str:
    words = _words(mark, scale)
    short = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    top = _LIST_TOP + _LINE * number + 14
    return f'<text x="{_MARGIN}" y="{top}" fill="{_colour(mark)}">{escape(short)}</text>'


def _words(mark: Mark, scale: _Scale) -> str:
    return f"+{duration((mark.time - scale.begin).total_seconds())}  {mark.reason}: {mark.text}"


def _colour(mark: Mark) -> str:
    return "#cf222e" if mark.warning else "#24292f"


def _chart(found: Timeline, scale: _Scale) -> Iterator[str]:
    """Draw a bar for each round, as high as it has nodes, and a line of the steps."""
    most = max((each.nodes for each in found.rounds), default=0) or 1
    for each in found.rounds:
        left, right = scale.x(each.begin), scale.x(each.end)
        high = _CHART_HEIGHT * each.nodes / most
        place = f'x="{left:.1f}" y="{_CHART_TOP + _CHART_HEIGHT - high:.1f}" width="{max(right - left - 1, 1):.1f}"'
        words = f"round {each.number}: {each.nodes} nodes for {duration((each.end - each.begin).total_seconds())}"
        words += f", after {each.cause}" if each.cause else ""
        yield f'<rect {place} height="{high:.1f}" fill="#ddf4ff" stroke="#54aeff"><title>{escape(words)}</title></rect>'
        if right - left >= _WIDEST_LABEL:
            place = f'x="{left + 4:.1f}" y="{_CHART_TOP + _CHART_HEIGHT - 6}"'
            yield f'<text {place} fill="#0969da">{each.nodes} nodes</text>'
    points = step_points(found)
    top = max((step for _, step in points), default=0)
    if top:
        line = " ".join(
            f"{scale.x(when):.1f},{_CHART_TOP + _CHART_HEIGHT * (1 - step / top):.1f}" for when, step in points
        )
        yield f'<polyline points="{line}" fill="none" stroke="#8250df" stroke-width="2"><title>steps</title></polyline>'
        yield f'<text x="{_WIDTH - _MARGIN}" y="{_CHART_TOP - 4}" text-anchor="end" fill="#8250df">step {top}</text>'


def _heading(found: Timeline) -> str:
    text = f"{found.begin:%Y-%m-%d %H:%M:%S} to {found.end:%H:%M:%S} UTC"
    return f"{text}, {found.steps}" if found.steps else text
