"""Progress lines (`key=value`) from the logs of all pods of a job."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from support.kubectl import Kubectl
from support.podlogs import PodLogs
from support.waiting import NotInTimeError

TRAINER = "trainer"


@dataclass(frozen=True)
class Line:
    """One line of `time=SECONDS key=value …`, in seconds since 1970, by the clock of the pod."""

    pod: str
    uid: str
    time: float
    values: Mapping[str, str]

    @property
    def event(self) -> str | None:
        """The event, if the line reports one."""
        return self.values.get("event")


@dataclass(frozen=True)
class Step:
    """A reported step, and the start of the workers that took it."""

    time: float
    step: int
    total: int | None
    world: int
    loss: float | None
    snapshot: int | None
    started_at: float
    """When these workers started, by the clock of the pod."""
    started_from: int
    """The step from which they resumed."""
    pod: str


def parse(text: str, pod: str = "", uid: str = "") -> Line | None:
    """Parse a line of the trainer library; None for any other line."""
    pairs = [part.partition("=") for part in text.split()]
    if not pairs or pairs[0][0] != "time" or not all(sign for _, sign, _ in pairs):
        return None
    values = {key: value for key, _, value in pairs}
    try:
        return Line(pod, uid, float(values.pop("time")), values)
    except ValueError:
        return None


def step_of(line: Line, start: Line | None) -> Step | None:
    """Return the step that a line reports, given the first line of its workers; None if it reports none."""
    if "step" not in line.values or start is None:
        return None
    done, _, total = line.values["step"].partition("/")
    loss, snapshot = line.values.get("loss"), line.values.get("snapshot")
    return Step(
        time=line.time,
        step=int(done),
        total=int(total) if total else None,
        world=int(line.values["world"]),
        loss=float(loss) if loss else None,
        snapshot=int(snapshot) if snapshot else None,
        started_at=start.time,
        started_from=int(start.values["at"]),
        pod=line.pod,
    )


class Training:
    """Follows the logs of all present and future pods of a job."""

    def __init__(
        self, kubectl: Kubectl, job: str, on_step: Callable[[Step], None] | None = None, trainer: str = TRAINER
    ) -> None:
        self._on_step = on_step
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._steps: list[Step] = []
        self._start_of: dict[str, Line] = {}
        self._skew: float | None = None
        selector = f"torchrun.dev/job-name={job},torchrun.dev/role=node"
        self._logs = PodLogs(kubectl, selector, trainer, self._wrote)

    def stop(self) -> None:
        """Stop following."""
        self._logs.stop()

    def steps(self) -> list[Step]:
        """Return the steps so far, in order of arrival."""
        with self._changed:
            return list(self._steps)

    def starts(self) -> list[Line]:
        """Return the starts of workers so far, by time."""
        with self._changed:
            return sorted((line for line in self._lines if line.event == "start"), key=lambda line: line.time)

    def lines(self) -> list[Line]:
        """Return the lines so far, in order of arrival."""
        with self._changed:
            return list(self._lines)

    def now(self) -> float:
        """Estimate the time by the clock of the pods, from the line with the least delay."""
        with self._changed:
            return time.time() - (self._skew or 0.0)

    def wait(self, what: str, wanted: Callable[[Step], bool], seconds: float) -> Step:
        """Return the first matching step, past or future. Raises NotInTimeError after that many seconds."""
        found: list[Step] = []

        def look() -> bool:
            found.extend(step for step in self._steps if wanted(step))
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, seconds):
                last = self._steps[-1] if self._steps else "no step at all"
                raise NotInTimeError(f"not within {seconds:.0f} s: {what}; last seen: {last}")
        return found[0]

    def _wrote(self, pod: str, uid: str, text: str) -> None:
        line = parse(text, pod, uid)
        if line is None:
            return
        with self._changed:
            delay = time.time() - line.time
            self._skew = delay if self._skew is None else min(self._skew, delay)
            self._lines.append(line)
            if line.event == "start":
                self._start_of[uid] = line
            step = step_of(line, self._start_of.get(uid))
            if step is not None:
                self._steps.append(step)
            self._changed.notify_all()
        if step is not None and self._on_step is not None:
            self._on_step(step)
