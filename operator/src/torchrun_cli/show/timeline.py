"""The life of a job: phases and what happened, from its events and its status.

Only reasons decide, because the wording of messages may change. The cluster keeps events for an hour or so: what was
before the first one is unknown.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from torchrun_cli.show.events import event_time, in_order
from torchrun_cli.show.style import cleaned
from torchrun_cli.show.times import moment
from torchrun_operator.api.names import KIND


class Phase(StrEnum):
    """What the job did in a part of its life."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    TRAINING = "training"
    RECOVERING = "recovering"
    RESIZING = "resizing"
    SUSPENDED = "suspended"
    COMPLETE = "complete"
    FAILED = "failed"


_PHASES: Final = {
    "Training": Phase.TRAINING,
    "Settled": Phase.TRAINING,
    "NodeLost": Phase.RECOVERING,
    "WorkersFailed": Phase.RECOVERING,
    "RestartingWorkers": Phase.RECOVERING,
    "RestartingAllNodes": Phase.RECOVERING,
    "ProgressDeadlineExceeded": Phase.RECOVERING,
    "ReplicasChanged": Phase.RESIZING,
    "Suspended": Phase.SUSPENDED,
    "Suspending": Phase.SUSPENDED,
    "NotSuspended": Phase.STARTING,
    "Finished": Phase.COMPLETE,
    "MaxRestartsExceeded": Phase.FAILED,
    "NeverTrained": Phase.FAILED,
    "DeadlineExceeded": Phase.FAILED,
}
"""The phase that begins with an event of this reason. Other events change nothing."""
_ENDS: Final = frozenset({Phase.COMPLETE, Phase.FAILED})
_KEPT: Final = timedelta(hours=1)
"""How long API servers keep events by default."""


class Mark(NamedTuple):
    """Something that happened."""

    time: datetime
    reason: str
    text: str
    warning: bool = False


class Part(NamedTuple):
    """A part of the life of a job."""

    begin: datetime
    end: datetime
    phase: Phase

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.begin).total_seconds()


class Round(NamedTuple):
    """A round, from its complete membership to the next one."""

    number: int
    begin: datetime
    end: datetime
    nodes: int
    step: int | None
    """The last step known when it began."""
    last_step: int | None
    """The last step known when it ended."""
    cause: str
    """Why the round before it ended. Empty: it is the first one, or the cause is unknown."""


class Timeline(NamedTuple):
    """The life of a job."""

    name: str
    state: str
    begin: datetime
    end: datetime
    parts: tuple[Part, ...]
    marks: tuple[Mark, ...]
    steps: str
    """How far it is: `400 of 1000 steps`. Empty if the script reports none."""
    rounds: tuple[Round, ...] = ()
    """The last rounds, as far as the status keeps them."""
    losses: str = ""
    """The restarts by cause: `code 1, infrastructure 2`. Empty: there were none."""

    def seconds(self, *phases: Phase) -> float:
        """Return how long the job was in these phases."""
        return sum(part.seconds for part in self.parts if part.phase in phases)


def timeline(job: dict[str, Any], events: Iterable[dict[str, Any]], now: datetime) -> Timeline:
    """Return the life of a job up to now, or to its end."""
    job = cleaned(job)
    status, metadata = job.get("status") or {}, job["metadata"]
    uid = metadata.get("uid")
    marks = [mark for event in in_order(events) if (mark := _mark(event, uid)) is not None]
    begin = moment(status.get("startTime")) or moment(metadata.get("creationTimestamp")) or now
    begin = min([begin, *(mark.time for mark in marks[:1])])
    end = moment(status.get("completionTime")) or now
    end = max([begin, end])
    parts = tuple(_parts(marks, begin, end, status))
    return Timeline(
        name=metadata["name"],
        state=status.get("state") or "Pending",
        begin=begin,
        end=end,
        parts=parts,
        marks=tuple(marks),
        steps=_steps(status),
        rounds=tuple(_rounds(status, end)),
        losses=", ".join(f"{cause} {count}" for cause, count in (status.get("restarts") or {}).items() if count),
    )


def _rounds(status: dict[str, Any], end: datetime) -> Iterator[Round]:
    """Yield the rounds of the status. The last one ends with the last step, or it goes on."""
    kept = [each for each in status.get("rounds") or () if moment(each.get("began")) is not None]
    for each, following in zip(kept, [*kept[1:], None], strict=False):
        begin, last = moment(each["began"]) or end, (status.get("progress") or {}).get("step")
        until = end if following is None else moment(following["began"]) or end
        yield Round(
            each.get("round", 0),
            begin,
            max(begin, until),
            each.get("nodes", 0),
            each.get("step"),
            last if following is None else following.get("step"),
            each.get("cause") or "",
        )


def _mark(event: dict[str, Any], uid: str | None) -> Mark | None:
    """Return what an event of the job says. None: it is about something else, or about an earlier job of that name."""
    about, when = event.get("involvedObject") or {}, event_time(event)
    if when is None or about.get("kind") != KIND or (uid and about.get("uid", uid) != uid):
        return None
    text = " ".join(str(cleaned(event.get("message") or "")).split())
    return Mark(when, event.get("reason") or "", text, event.get("type") == "Warning")


def _parts(marks: list[Mark], begin: datetime, end: datetime, status: dict[str, Any]) -> Iterator[Part]:
    changes = [(mark.time, _PHASES[mark.reason]) for mark in marks if mark.reason in _PHASES]
    phase, since = _first(marks, changes, begin, status), begin
    for when, following in changes:
        if phase in _ENDS or following is phase:
            continue
        until = min(max(when, since), end)
        if until > since:
            yield Part(since, until, phase)
        since, phase = until, following
    if end > since and phase not in _ENDS:
        yield Part(since, end, phase)


def _first(marks: list[Mark], changes: list[tuple[datetime, Phase]], begin: datetime, status: dict[str, Any]) -> Phase:
    """Return how the life began. It is unknown if events before the first one may be gone."""
    if not changes:
        return Phase.STARTING if status.get("state", "Pending") in ("Pending", "Starting") else Phase.UNKNOWN
    begins = changes[0][1] in (Phase.TRAINING, Phase.STARTING)
    return Phase.STARTING if begins and marks[0].time - begin < _KEPT else Phase.UNKNOWN


def _steps(status: dict[str, Any]) -> str:
    progress = status.get("progress") or {}
    if progress.get("step") is None:
        return ""
    total = f" of {progress['totalSteps']}" if progress.get("totalSteps") else ""
    return f"{progress['step']}{total} steps"
