"""Owner: sees to it that one run at a time writes snapshots to a place.

The owner's record lies beside the snapshots. It is refreshed every few seconds, so that a run elsewhere can see whether
the owner lives without comparing clocks: by waiting whether the record changes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torchrun_trainer.storage import Storage

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 1.0


class OwnedError(RuntimeError):
    """Another run writes its snapshots here."""


@dataclass(frozen=True)
class Record:
    """Who owns a place: ``token`` names one process, ``run`` all processes of one run, through its restarts."""

    token: str
    run: str
    host: str
    machine: str
    process: int
    started: str
    beat: int = 0

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()


def decode(content: bytes | None) -> Record | None:
    """Read a record; None if it is none."""
    try:
        return Record(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None


def ourselves() -> Record:
    """Describe this process."""
    return Record(
        token=uuid.uuid4().hex,
        run=_run(),
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        started=_started(os.getpid()),
    )


def _run() -> str:
    """Return what stays the same when a run is started again; empty if nothing is known to."""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if given not in ("", "none"):  # torchrun's default, which every run has
        return given
    slurm = os.environ.get("SLURM_JOB_ID")
    return f"slurm-{slurm}" if slurm else ""


def _machine() -> str:
    """Name what has process numbers of its own: a boot of a machine, and a container on it; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process was started, in ticks since boot; empty if there is none of this number."""
    try:
        # proc(5): the command's name, the second field, may hold spaces and brackets; the 22nd is the start.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class Owner:
    """Owns a place from ``acquire`` to ``release``; to be used by one process of a run."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._us = ourselves()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """Name of this process."""
        return self._us.token

    def acquire(self) -> None:
        """Take the place; does nothing if we have it.

        An earlier process of the same run loses it at once, and so does one that has ended. Whether one elsewhere
        lives takes 20 s to find out. Raises OwnedError if it does, OSError if the place cannot be written.
        """
        if self._thread:
            return
        other = decode(self._storage.get(self._name))
        if other and not self._replaces(other):
            raise OwnedError(
                f"{self._storage.location} belongs to another run, which is alive: {other.run or 'one without a name'} "
                f"(process {other.process} on {other.host}); give each run a place of its own"
            )
        self._storage.put(self._name, self._us.encode())
        self._released.clear()
        self._thread = threading.Thread(target=self._refresh, name="torchrun-trainer-owner", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise OwnedError if another process has taken the place since."""
        other = decode(self._storage.get(self._name))
        if other and other.token != self._us.token:
            kind = "a later process of this run" if other.run and other.run == self._us.run else "another run"
            raise OwnedError(
                f"{self._storage.location} was taken over by {kind} (process {other.process} on {other.host})"
            )

    def release(self) -> None:
        """Give the place up, so that nobody has to find out whether we live."""
        if not self._thread:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(Exception):  # it is a courtesy
            self.check()
            self._storage.remove(self._name)

    def _replaces(self, other: Record) -> bool:
        """Return whether we may take over from the process of this record."""
        if other.run and other.run == self._us.run:
            return True
        if other.machine and other.machine == self._us.machine:
            return other.process == os.getpid() or _started(other.process) != other.started
        logger.warning(
            "%s belongs to another run on %s; waiting up to %.0f s for a sign of life from it",
            self._storage.location,
            other.host,
            PATIENCE_SECONDS,
        )
        return not self._changes(other)

    def _changes(self, other: Record) -> bool:
        patience = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < patience:
            time.sleep(min(_LOOK_SECONDS, PATIENCE_SECONDS))
            now = decode(self._storage.get(self._name))
            if now is None:
                return False
            if now != other:
                return True
        return False

    def _refresh(self) -> None:
        """Show that we live; whatever goes wrong is left for the next snapshot to say."""
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):
                self.check()
                self._us = replace(self._us, beat=self._us.beat + 1)
                self._storage.put(self._name, self._us.encode())
