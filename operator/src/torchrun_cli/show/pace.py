"""How fast a job trains while one looks at it, and whether it has ended."""

from typing import Any, Final

from torchrun_cli.show.job import Pace
from torchrun_cli.show.times import moment

_SHORTEST: Final = 5.0
"""Seconds. In less than that, the whole seconds of the reports say little."""


class Stopwatch:
    """Measures the pace of a job from the reports of its round. A new round begins the measurement again."""

    def __init__(self) -> None:
        self._first: tuple[int, int, float] | None = None

    def pace(self, job: dict[str, Any]) -> Pace | None:
        """Return the pace since the first report of this round. None: it is too early to say."""
        status = job.get("status") or {}
        progress, round_ = status.get("progress") or {}, (status.get("membership") or {}).get("round", 0)
        step, when = progress.get("step"), moment(progress.get("time"))
        if step is None or when is None:
            return None
        if self._first is None or self._first[0] != round_ or step < self._first[1]:
            self._first = (round_, int(step), when.timestamp())
        _, first, since = self._first
        seconds = when.timestamp() - since
        return Pace(int(step) - first, seconds) if seconds >= _SHORTEST and step > first else None


def condition(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of the job. It is empty if the job has none of that type."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def holds(job: dict[str, Any], kind: str) -> bool:
    """Whether a condition of the job is True."""
    return bool(condition(job, kind).get("status") == "True")


def has_ended(job: dict[str, Any]) -> bool:
    """Whether the job is complete or has failed. Both are final."""
    return holds(job, "Complete") or holds(job, "Failed")
