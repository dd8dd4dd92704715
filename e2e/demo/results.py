"""The figures of one demo run: a table for people, JSON for programs, and the missed bars."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECOVERY_SECONDS = 10.0
ACCURACY = 0.95
_WIDTH = 44


@dataclass
class Results:
    """The measured figures, times in seconds. None if the demo did not get that far."""

    first_step_seconds: float | None = None
    recovery_seconds: float | None = None
    repeated_steps: int | None = None
    scale_down_seconds: float | None = None
    scale_down_repeated_steps: int | None = None
    scale_up_seconds: float | None = None
    scale_up_repeated_steps: int | None = None
    resumed_from: list[int] = field(default_factory=list)
    """The step from which each start of the workers resumed. The first is the start of the job."""
    restarts: dict[str, int] = field(default_factory=dict)
    final_step: int | None = None
    snapshot_step: int | None = None
    accuracy: float | None = None
    total_seconds: float | None = None

    def failures(self) -> list[str]:
        """Return the failures; empty if there are none. A slow recovery is reported but is not a failure."""
        found = []
        if 0 in self.resumed_from[1:]:
            found.append(f"training restarted from step 0 (starts: {self.resumed_from})")
        if self.restarts.get("code"):
            found.append(f"{self.restarts['code']} restarts counted as code, which did not fail")
        if self.accuracy is None or self.accuracy < ACCURACY:
            found.append(f"the final accuracy is {self.accuracy}, less than {ACCURACY}")
        return found

    def table(self, good: Callable[[str], str] = str, bad: Callable[[str], str] = str) -> str:
        """Format the figures as a table. `good` and `bad` color the results."""
        met = self.recovery_seconds is not None and self.recovery_seconds <= RECOVERY_SECONDS
        resumed = self.resumed_from[1:]
        kept = bool(resumed) and 0 not in resumed
        learned = self.accuracy is not None and self.accuracy >= ACCURACY
        verdict = {True: good("ok"), False: bad("missed")}
        rows = [
            ("apply -> first step", _seconds(self.first_step_seconds), ""),
            ("rank 0 killed -> next step", _seconds(self.recovery_seconds), f"bar 10 s: {verdict[met]}"),
            ("  steps repeated", _number(self.repeated_steps), ""),
            ("scale 3 -> 2 -> step with world 2", _seconds(self.scale_down_seconds), ""),
            ("  steps repeated", _number(self.scale_down_repeated_steps), ""),
            ("scale 2 -> 3 -> step with world 3", _seconds(self.scale_up_seconds), ""),
            ("  steps repeated", _number(self.scale_up_repeated_steps), ""),
            ("restarts resumed from steps", ", ".join(map(str, resumed)) or "-", f"never from 0: {verdict[kept]}"),
            ("restarts by cause", ", ".join(f"{k} {v}" for k, v in self.restarts.items() if v) or "none", ""),
            ("last step, last snapshot", f"{_number(self.final_step)}, {_number(self.snapshot_step)}", ""),
            ("accuracy on unseen digits", _fraction(self.accuracy), f"bar {ACCURACY}: {verdict[learned]}"),
            ("the whole demo", _seconds(self.total_seconds), ""),
        ]
        return "\n".join(f"  {name:<{_WIDTH - 8}}{value:>16}  {note}".rstrip() for name, value, note in rows)

    def write(self, path: Path) -> None:
        """Return everything as JSON."""
        bars = {"recovery_seconds": RECOVERY_SECONDS, "accuracy": ACCURACY}
        document = {**asdict(self), "bars": bars, "failures": self.failures()}
        path.write_text(json.dumps(document, indent=2) + "\n")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
