"""Tracking: sends the reported values to TensorBoard or Weights & Biases, as one run across restarts.

A thread does all of it, so that a slow service or disk neither delays nor ends the training. A restart repeats the
steps since the snapshot: TensorBoard drops the values it has of them, Weights & Biases keeps them.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torchrun_trainer.snapshots.place import split
from torchrun_trainer.snapshots.storage import storage

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
_MOST_WAITING = 10_000
_URL = "://"
_NOTE = "wandb.json"
# Used if this version of wandb has them: the longest time to finish, and the seconds of values that a kill may cost.
_WANDB_SETTINGS = {"finish_timeout": _CLOSE_SECONDS, "x_transaction_log_flush_interval": 1.0}


class Backend(Protocol):
    """A service that takes scalars; called from one thread."""

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Take the values of some steps, in ascending order."""

    def close(self) -> None:
        """Finish properly."""


class Tracker:
    """Sends values to a backend from a thread of its own; never raises, and warns once if the backend fails."""

    def __init__(self, name: str, make: Callable[[], Backend]) -> None:
        self._name = name
        self._make = make
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=_MOST_WAITING)
        self._busy = False
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name=f"torchrun-trainer-{name}", daemon=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue values for sending. If the backend hangs, the oldest queued values are dropped in the end."""
        with self._changed:
            if self._closing:
                return
            self._waiting.append((step, values))
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Wait up to ``seconds`` until all queued values are sent."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy), seconds if self._thread.ident else 0.0)

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Send what is left and finish, or give up after ``seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        atexit.unregister(self.close)

    def _run(self) -> None:
        backends: list[Backend] = []
        self._attempt(lambda: backends.append(self._make()))
        # Only now: exit handlers run in reverse order, and this one must run before those of the backend.
        atexit.register(self.close)
        while points := self._take():
            for backend in backends:
                self._attempt(lambda backend=backend, points=points: backend.log(points))  # type: ignore[misc]
        for backend in backends:
            self._attempt(backend.close)

    def _take(self) -> list[tuple[int, Mapping[str, float]]]:
        """Wait for points; return none when it is time to close."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closing)
            points = list(self._waiting)
            self._waiting.clear()
            self._busy = bool(points)
            return points

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # no backend may end the training
            if not self._warned:
                logger.warning("tracking by %s fails, training continues: %s (logged once)", self._name, error)
            self._warned = True


class _TensorBoard:
    def __init__(self, directory: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (needs a package of its own)

        self._writer: Any = SummaryWriter(directory, purge_step=step + 1)

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in points:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run whose id, and the last step sent, are kept in ``wandb.json`` beside the snapshots."""

    def __init__(self, project: str, home: str | None) -> None:
        import wandb  # noqa: PLC0415

        self._home = storage(home) if home else None
        known = json.loads(self._home.get(_NOTE) or "{}") if self._home else {}
        entity, _, name = project.rpartition("/")
        local = home if home and _URL not in home and "WANDB_DIR" not in os.environ else None
        if local:
            Path(local).mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in _WANDB_SETTINGS.items() if key in wandb.Settings.model_fields}
        self._run = wandb.init(
            entity=entity or None,
            project=name or None,
            id=os.environ.get("WANDB_RUN_ID") or known.get("id") or _job_id(),
            resume="allow",
            dir=local,
            settings=wandb.Settings(**settings),
        )
        # Offline, no service knows what earlier processes have sent, and merging needs every step only once.
        self._sent = max(self._run.step - 1, known.get("step", -1) if known.get("id") == self._run.id else -1)
        self._write_note()

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        new = [(step, values) for step, values in points if step > self._sent]
        if not new:
            return
        self._sent = new[-1][0]
        if self._home and _URL not in self._home.location:
            self._write_note()  # before sending: a gap is better than a step that is sent twice
        for step, values in new:
            self._run.log(dict(values), step=step, commit=True)

    def close(self) -> None:
        self._run.finish()

    def _write_note(self) -> None:
        if self._home:
            self._home.put(_NOTE, json.dumps({"id": self._run.id, "step": self._sent}).encode())


_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def trackers(track: str | Sequence[str], snapshot_path: str | Path | None, step: int) -> list[Tracker]:
    """Create the trackers for ``Run(track=…)``: "tensorboard[:DIRECTORY]" and "wandb[:[ENTITY/]PROJECT]".

    Without a directory, TensorBoard's files go to ``tensorboard`` beside the snapshots, or to ``runs``. ``step`` is the
    number of steps done so far. Nothing is imported or written before the first values arrive.

    Raises:
        ValueError: there is no tracker of that name.
        ImportError: its package is not installed.

    """
    home = _home(snapshot_path)
    made = []
    for wanted in [track] if isinstance(track, str) else track:
        name, _, rest = wanted.partition(":")
        if name not in _PACKAGES:
            raise ValueError(f"track is {wanted!r}; it must begin with {' or '.join(_PACKAGES)}")
        specification = importlib.util.find_spec(_PACKAGES[name])
        if specification is None or specification.origin is None:  # a mere directory has no origin
            raise ImportError(f"track={wanted!r} needs a package: pip install 'torchrun-trainer[{name}]'")
        if name == "wandb":
            made.append(Tracker(name, lambda rest=rest: _WandB(rest, home)))  # type: ignore[misc]
        else:
            directory = rest or (f"{home.rstrip('/')}/tensorboard" if home else "runs")
            made.append(Tracker(name, lambda directory=directory: _TensorBoard(directory, step)))  # type: ignore[misc]
    return made


def _home(snapshot_path: str | Path | None) -> str | None:
    """Return the directory, or URL, of the snapshots; None without snapshots."""
    return split(snapshot_path)[0] if snapshot_path else None


def _job_id() -> str | None:
    """Return torchrun's name of the job; None if it has none."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if job == "none" else re.sub(r"[^\w-]", "-", job)
