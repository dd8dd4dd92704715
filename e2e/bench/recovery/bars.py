"""The bars for jobs of this operator: seconds in the median, and no lost step in any planned change."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OURS, _SPARE, _PEER, _BY_HAND = "torchrunjob", "torchrunjob-spare", "pytorchjob", "pods"

Record = Mapping[str, Any]
Figure = Callable[[Record], float | None]


def _after_not_ready(record: Record) -> float | None:
    """Return the seconds from NotReady of the Kubernetes node to the next step; 0 if the step came first."""
    step, told = record.get("next_step_seconds"), record.get("not_ready_seconds")
    if step is None:
        return None
    return 0.0 if told is None else float(max(0.0, step - told))


def _code_restarts(record: Record) -> float | None:
    found: float | None = (record.get("restarts") or {}).get("code")
    return found


def _next_step(record: Record) -> float | None:
    return record.get("next_step_seconds")


def _full_size(record: Record) -> float | None:
    return record.get("full_size_seconds")


def _pause(record: Record) -> float | None:
    return record.get("pause_seconds")


def _steps_lost(record: Record) -> float | None:
    return record.get("steps_lost")


def _rounds(record: Record) -> float | None:
    return record.get("rounds")


@dataclass(frozen=True)
class Bar:
    """The maximum of a figure, in the median or every time. A missing figure exceeds it."""

    fault: str
    what: str
    most: float
    figure: Figure
    every_time: bool = False
    system: str = _OURS

    def seen(self, content: Mapping[str, Any]) -> float | None:
        """Return the figure of a document; None if nothing was measured, infinity if a repetition has none."""
        found = _figures(content, self.system, self.fault, self.figure)
        return (max(found) if self.every_time else statistics.median(found)) if found else None

    def met(self, seen: float) -> bool:
        """Whether the figure meets the bar."""
        return seen <= self.most

    @property
    def asked(self) -> str:
        """The bar in words."""
        return f"at most {self.most:g} {'every time' if self.every_time else 'in the median'}"


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another system a job must be at full size, median to median."""

    fault: str
    least: float
    what: str = "times faster at full size than PyTorchJob"
    peer: str = _PEER
    system: str = _OURS

    def seen(self, content: Mapping[str, Any]) -> float | None:
        """Return the ratio of the medians; None if one was not measured, infinity if the other never recovered."""
        ours = _figures(content, self.system, self.fault, _full_size)
        peers = _figures(content, self.peer, self.fault, _full_size)
        if not (ours and peers):
            return None
        own, other = statistics.median(ours), statistics.median(peers)
        return 0.0 if math.isinf(own) else other / own

    def met(self, seen: float) -> bool:
        """Whether the figure meets the bar."""
        return seen >= self.least

    @property
    def asked(self) -> str:
        """The bar in words."""
        return f"at least {self.least:g}"


def _figures(content: Mapping[str, Any], system: str, fault: str, figure: Figure) -> Sequence[float]:
    mine = [one for one in content["repetitions"] if (one["system"], one["fault"]) == (system, fault)]
    found = [figure(record) for record in mine]
    return [math.inf if value is None else value for value in found]


_PLANNED = ("terminate", "drain", "scale-down", "scale-up")
_KILLS = ("kill-worker", "kill-rank-0", "delete")
BARS: tuple[Bar | Ratio, ...] = (
    Ratio("start", 1.25, "times faster at the first step than pods by hand", _BY_HAND),
    *(Bar(fault, "seconds to a step at full size", 5.0, _full_size) for fault in _KILLS),
    *(Bar(fault, "seconds to a step at full size, one spare", 2.0, _full_size, system=_SPARE) for fault in _KILLS),
    *(Ratio(fault, 1.0) for fault in (*_KILLS, *_PLANNED, "stop-machine", "partition")),
    *(Bar(fault, "steps lost", 0, _steps_lost, every_time=True) for fault in _PLANNED),
    *(Bar(fault, "rounds", 1, _rounds, every_time=True) for fault in _PLANNED),
    Bar("stop-machine", "seconds from NotReady to a step", 8.0, _after_not_ready),
    Bar("partition", "seconds to a step", 12.0, _next_step),
    Bar("kill-store", "seconds without a step", 4.0, _pause),
    Bar("kill-store", "seconds without a step", 6.0, _pause, every_time=True),
    Bar("kill-store", "failures of the code counted", 0, _code_restarts, every_time=True),
    Bar("kill-worker-operator-away", "seconds to a step", 15.0, _next_step),
)


def judged(content: Mapping[str, Any]) -> list[tuple[Bar | Ratio, float, bool]]:
    """Return each measured bar, its figure (infinity: a figure is missing), and whether it was met."""
    seen = [(bar, bar.seen(content)) for bar in BARS]
    return [(bar, value, bar.met(value)) for bar, value in seen if value is not None]


def told(content: Mapping[str, Any]) -> str:
    """Format the bars as a Markdown table."""
    rows = [("fault", "figure", "bar", "measured", ""), ("---",) * 5]
    for bar, value, met in judged(content):
        seen = "missing" if math.isinf(value) else f"{value:.3g}"
        rows.append((content["faults"][bar.fault], bar.what, bar.asked, seen, "met" if met else "**missed**"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
