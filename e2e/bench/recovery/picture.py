"""The picture of a run: a panel per fault with steps over time for every repetition of every system. Pure, SVG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_COLUMNS = 2
_WIDTH, _HEIGHT = 430, 200
"""Of a panel's axes."""
_LEFT, _TOP, _GAP_X, _GAP_Y = 50, 90, 60, 70
_BEFORE_SECONDS = 5.0
_LEAST_SECONDS = 30.0
_AFTER_SECONDS = 5.0
_TICKS = 5
_COLORS = ("#0969da", "#1a7f37", "#8250df", "#d1580b", "#6e7781")
_STYLE = (
    "text{font:12px sans-serif;fill:#1f2328} .title{font-weight:bold} .axis{stroke:#1f2328}"
    " .grid{stroke:#d0d7de} .fault{stroke:#cf222e;stroke-dasharray:4 3}"
    " polyline{fill:none;stroke-width:1.6;stroke-opacity:.75;stroke-linejoin:round}"
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """Maps seconds and steps to the pixels of a panel."""

    left: float
    top: float
    seconds: tuple[float, float]
    steps: tuple[float, float]

    def x(self, seconds: float) -> float:
        """Return the pixel of a moment, limited to the panel."""
        low, high = self.seconds
        return round(self.left + _WIDTH * (min(max(seconds, low), high) - low) / (high - low), 1)

    def y(self, steps: float) -> float:
        """Return the pixel of a number of steps, limited to the panel."""
        low, high = self.steps
        return round(self.top + _HEIGHT * (1 - (min(max(steps, low), high) - low) / (high - low)), 1)


def picture(content: Mapping[str, Any]) -> str:
    """Draw the figures of a document."""
    shown = [fault for fault in content["faults"] if _records(content, fault)]
    rows = -(-len(shown) // _COLUMNS)
    width = _LEFT + _COLUMNS * (_WIDTH + _GAP_X)
    height = _TOP + rows * (_HEIGHT + _GAP_Y)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(content),
    ]
    for number, fault in enumerate(shown):
        left = _LEFT + number % _COLUMNS * (_WIDTH + _GAP_X)
        top = _TOP + number // _COLUMNS * (_HEIGHT + _GAP_Y)
        lines += _panel(content, fault, left, top)
    return "\n".join([*lines, "</svg>", ""])


def _records(content: Mapping[str, Any], fault: str) -> list[Record]:
    return [one for one in content["repetitions"] if one["fault"] == fault and one.get("curve")]


def _legend(content: Mapping[str, Any]) -> Iterator[str]:
    yield '<text x="20" y="22" class="title">Steps over seconds since the fault; one line per repetition</text>'
    x = 20
    for color, title in zip(_COLORS, content["systems"].values(), strict=False):
        yield f'<line x1="{x}" y1="40" x2="{x + 24}" y2="40" stroke="{color}" stroke-width="3"/>'
        yield f'<text x="{x + 30}" y="44">{escape(title)}</text>'
        x += 60 + 8 * len(title)


def _panel(content: Mapping[str, Any], fault: str, left: float, top: float) -> Iterator[str]:
    records = _records(content, fault)
    scale = _scale(records, left, top)
    yield f'<text x="{left}" y="{top - 8}" class="title">{escape(content["faults"][fault])}</text>'
    yield from _axes(scale)
    yield f'<line class="fault" x1="{scale.x(0)}" y1="{top}" x2="{scale.x(0)}" y2="{top + _HEIGHT}"/>'
    for color, system in zip(_COLORS, content["systems"], strict=False):
        for record in records:
            if record["system"] == system:
                points = " ".join(f"{scale.x(x)},{scale.y(y)}" for x, y in _clipped(record["curve"], scale.seconds[1]))
                yield f'<polyline stroke="{color}" points="{points}"/>'


def _scale(records: Sequence[Record], left: float, top: float) -> Scale:
    """Choose the range of a panel: until all systems that recover have recovered."""
    recovered = [one["full_size_seconds"] or one["next_step_seconds"] or 0.0 for one in records]
    end = max(_LEAST_SECONDS, max(recovered) + _AFTER_SECONDS)
    steps = [y for one in records for _, y in _clipped(one["curve"], end)]
    return Scale(left, top, (-_BEFORE_SECONDS, end), (min(steps), max(*steps, min(steps) + 1)))


def _clipped(curve: Sequence[Sequence[float]], end: float) -> list[tuple[float, float]]:
    """Return the part of a curve inside the panel, with a point at the edge if the curve continues."""
    points: list[tuple[float, float]] = []
    for x, y in curve:
        if x > end:
            if points:
                x0, y0 = points[-1]
                points.append((end, y0 + (y - y0) * (end - x0) / (x - x0)))
            break
        points.append((x, y))
    return points


def _axes(scale: Scale) -> Iterator[str]:
    bottom, right = scale.top + _HEIGHT, scale.left + _WIDTH
    for step in _ticks(*scale.steps):
        y = scale.y(step)
        yield f'<line class="grid" x1="{scale.left}" y1="{y}" x2="{right}" y2="{y}"/>'
        yield f'<text x="{scale.left - 6}" y="{y + 4}" text-anchor="end">{step:g}</text>'
    for second in _ticks(*scale.seconds):
        x = scale.x(second)
        yield f'<line class="axis" x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 4}"/>'
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{second:g} s</text>'
    yield f'<line class="axis" x1="{scale.left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Return some round numbers in a range."""
    step = next(
        size for size in (base * 10**power for power in range(8) for base in (1, 2, 5)) if (high - low) / size <= _TICKS
    )
    first = -(-low // step)
    return [step * (first + number) for number in range(_TICKS + 1) if step * (first + number) <= high]
