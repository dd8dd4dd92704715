"""Progress: how far the training is, as lines on standard output and as JSON for a collector."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from datetime import datetime

logger = logging.getLogger(__name__)

URL_VARIABLE = "TORCHRUN_PROGRESS_URL"
_POST_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_ANSWER_BYTES = 4096
_LONGEST_SECONDS = 2**31 - 1


@dataclass(frozen=True)
class Progress:
    """A point in the training: ``step`` steps are done, ``snapshot_step`` of them are on disk.

    The last snapshot blocked the training for ``snapshot_seconds``, which is not sent to the collector.

    ``beat`` counts the signs of life between steps. ``slow_rank``, on the node ``slow_node`` (torchrun's group rank),
    keeps all other ranks waiting for ``slow_seconds`` of the ``step_seconds`` that a step takes.
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
        """Return one line of ``key=value``, without the keys that have no value. ``now`` is in seconds since 1970."""
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
        """Return the document for the collector: camelCase keys, null for unknown values."""
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


def write_line(line: str) -> None:
    """Write a line to standard output, immediately and in one piece."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write_milestone(name: str, **values: object) -> None:
    """Write the line of a milestone, the start or the drain of a run: ``time=… event=name key=value …``."""
    pairs = (f"{key}={value}" for key, value in values.items())
    write_line(" ".join([f"time={time.time():.3f}", f"event={name}", *pairs]))


class NoPublisher:
    """The interface of ``Publisher`` where there is no collector."""

    deadline = 0.0

    def publish(self, progress: Progress) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_publisher(rank: int) -> Publisher | NoPublisher:
    """Return the publisher of this rank: one to ``$TORCHRUN_PROGRESS_URL`` on rank 0, if it is set."""
    url = os.environ.get(URL_VARIABLE) if rank == 0 else None
    return Publisher(url) if url else NoPublisher()


class Publisher:
    """Posts the latest progress to a URL, at most once per second, from a thread of its own; never raises.

    ``deadline`` comes from the collector's last answer: workers without a step for that many seconds hang; 0: never.
    """

    def __init__(self, url: str) -> None:
        self.deadline = 0.0
        self._url = url
        # No proxy: the collector runs in the same cluster.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._changed = threading.Condition()
        self._latest: Progress | None = None
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="torchrun-trainer-progress", daemon=True)
        self._thread.start()

    def publish(self, progress: Progress) -> None:
        """Send this next, and drop anything older that has not been sent."""
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def close(self) -> None:
        """Send what is left and stop; give up after 1 s."""
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
            if not self._warned:
                logger.warning("progress cannot be posted to %s: %s (logged once)", self._url, error)
                self._warned = True


def _deadline(answer: bytes) -> float:
    """Return the deadline in a collector's answer; 0 without one."""
    try:
        seconds = json.loads(answer)["progressDeadlineSeconds"]
    except (ValueError, TypeError, KeyError):
        return 0.0
    known = isinstance(seconds, int | float) and 0 < seconds <= _LONGEST_SECONDS
    return float(seconds) if known else 0.0
