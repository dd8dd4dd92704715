"""What this operator's own jobs must keep to, in every repetition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SYSTEM = "torchrunjob"

Record = Mapping[str, Any]


def _after_not_ready(record: Record) -> float | None:
    """Return the seconds from the API server's word that the machine is not ready to the next step; 0 if before it."""
    step, told = record.get("next_step_seconds"), record.get("not_ready_seconds")
    if step is None:
        return None
    return 0.0 if told is None else float(max(0.0, step - told))


def _code_restarts(record: Record) -> float | None:
    found: float | None = (record.get("restarts") or {}).get("code")
    return found


@dataclass(frozen=True)
class Bar:
    """The most that a figure may be; a figure that is missing is too much."""

    fault: str
    what: str
    most: float
    figure: Callable[[Record], float | None]

    def worst(self, records: Sequence[Record]) -> float | None:
        """Return the largest figure; None where one is missing."""
        figures = [self.figure(record) for record in records]
        known = [figure for figure in figures if figure is not None]
        return max(known) if len(known) == len(figures) else None

    def met(self, records: Sequence[Record]) -> bool:
        """Whether every repetition keeps to it."""
        worst = self.worst(records)
        return worst is not None and worst <= self.most


def _next_step(record: Record) -> float | None:
    return record.get("next_step_seconds")


def _full_size(record: Record) -> float | None:
    return record.get("full_size_seconds")


def _steps_lost(record: Record) -> float | None:
    return record.get("steps_lost")


def _rounds(record: Record) -> float | None:
    return record.get("rounds")


_PLANNED = ("terminate", "drain", "scale-down", "scale-up")
BARS = (
    Bar("kill-worker", "seconds to a step at full size", 8.0, _full_size),
    Bar("kill-rank-0", "seconds to a step at full size", 8.0, _full_size),
    Bar("delete", "seconds to a step at full size", 8.0, _full_size),
    *(Bar(fault, "steps lost", 0, _steps_lost) for fault in _PLANNED),
    *(Bar(fault, "rounds", 1, _rounds) for fault in _PLANNED),
    Bar("stop-machine", "seconds from NotReady to a step", 8.0, _after_not_ready),
    Bar("partition", "seconds to a step", 12.0, _next_step),
    Bar("kill-store", "seconds to a step at full size", 20.0, _full_size),
    Bar("kill-store", "failures of the code counted", 0, _code_restarts),
    Bar("kill-worker-operator-away", "seconds to a step", 15.0, _next_step),
)


def judged(content: Mapping[str, Any]) -> list[tuple[Bar, float | None, bool]]:
    """Return each bar that was tried, the worst figure (None where one is missing), and whether it was met."""
    result = []
    for bar in BARS:
        mine = [one for one in content["repetitions"] if (one["system"], one["fault"]) == (_SYSTEM, bar.fault)]
        if mine:
            result.append((bar, bar.worst(mine), bar.met(mine)))
    return result


def told(content: Mapping[str, Any]) -> str:
    """Write the bars as a table in Markdown."""
    rows = [("fault", "figure", "at most", "worst seen", ""), ("---",) * 5]
    for bar, worst, met in judged(content):
        seen = "missing" if worst is None else f"{worst:g}"
        rows.append((content["faults"][bar.fault], bar.what, f"{bar.most:g}", seen, "met" if met else "**missed**"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
