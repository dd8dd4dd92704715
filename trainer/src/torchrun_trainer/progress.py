"""Progress: what the training has reached, as lines on standard output and as JSON to a collector."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from datetime import datetime

logger = logging.getLogger(__name__)

_POST_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_ANSWER_BYTES = 4096
_LONGEST_SECONDS = 2**31 - 1


@dataclass(frozen=True)
class Progress:
    """A point in the training: ``step`` steps are done, ``snapshot_step`` of them are on disk.

    The last snapshot kept the training waiting for ``snapshot_seconds``; the collector does not ask for that.

    ``beat`` counts up where something gets on that is no step. ``slow_rank``, on the node ``slow_node`` (torchrun's
    group rank), keeps all others waiting for ``slow_seconds`` of the ``step_seconds`` that a step takes.
    """

    step: int
    total_steps: int | None
    epoch: int | None
    loss: float | None
    samples_per_second: float | None
    world_size: int
    snapshot_step: int | None
    snapshot_time: datetime | None
    beat: int | None = None
    slow_rank: int | None = None
    slow_node: int | None = None
    slow_seconds: float | None = None
    step_seconds: float | None = None
    snapshot_seconds: float | None = None

    def line(self, now: float) -> str:
        """Return one line of ``key=value``; keys without a value are left out. ``now`` is in seconds since 1970."""
        values = {
            "time": f"{now:.3f}",
            "step": str(self.step) if self.total_steps is None else f"{self.step}/{self.total_steps}",
            "epoch": self.epoch,
            "loss": None if self.loss is None else f"{self.loss:.4g}",
            "samples/s": None if self.samples_per_second is None else f"{self.samples_per_second:.1f}",
            "world": self.world_size,
            "snapshot": self.snapshot_step,
            "blocked": None if self.snapshot_seconds is None else f"{self.snapshot_seconds:.4f}",
            "slow": self.slow_rank,
        }
        return " ".join(f"{key}={value}" for key, value in values.items() if value is not None)

    def document(self) -> dict[str, object]:
        """Return what the collector is sent: camelCase keys, null for what is not known."""
        values = {_camel_case(name): _json_value(value) for name, value in asdict(self).items()}
        del values["snapshotSeconds"]
        return values


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such numbers
    return value


def say(line: str) -> None:
    """Write a line to standard output, at once and in one piece."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def event(name: str, **values: object) -> None:
    """Write a line about something that happened once: ``time=… event=name key=value …``."""
    say(" ".join([f"time={time.time():.3f}", f"event={name}", *(f"{key}={value}" for key, value in values.items())]))


class Publisher:
    """Posts the latest progress to a URL, at most once per second, from a thread of its own; never raises.

    ``deadline`` is what the collector last answered: after how many seconds without a step the workers hang; 0: never.
    """

    def __init__(self, url: str) -> None:
        self.deadline = 0.0
        self._url = url
        # No proxy: the collector is a neighbour.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._changed = threading.Condition()
        self._latest: Progress | None = None
        self._closing = False
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="torchrun-trainer-progress", daemon=True)
        self._thread.start()

    def publish(self, progress: Progress) -> None:
        """Have this sent next, instead of anything that has not been sent yet."""
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def close(self) -> None:
        """Send what is left and stop; gives up after 1 s."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not None or self._closing)
                progress, self._latest = self._latest, None
            if progress is None:
                return
            self._post(progress)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, _POST_SECONDS)

    def _post(self, progress: Progress) -> None:
        body = json.dumps(progress.document()).encode()
        try:
            request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                self.deadline = _deadline(response.read(_ANSWER_BYTES))
        except (OSError, ValueError) as error:
            if not self._complained:
                logger.warning("progress cannot be posted to %s: %s (said once)", self._url, error)
                self._complained = True


def _deadline(answer: bytes) -> float:
    """Read the deadline in a collector's answer; 0 from one that says nothing of the kind."""
    try:
        seconds = json.loads(answer)["progressDeadlineSeconds"]
    except (ValueError, TypeError, KeyError):
        return 0.0
    known = isinstance(seconds, int | float) and 0 < seconds <= _LONGEST_SECONDS
    return float(seconds) if known else 0.0
