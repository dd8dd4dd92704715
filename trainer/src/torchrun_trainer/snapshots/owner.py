"""Owner: makes sure that one run at a time writes snapshots to a place.

The record of the owner lies beside the snapshots, and is refreshed every few seconds. A run elsewhere finds out whether
the owner is alive by waiting for a change of the record, so that no clocks are compared.
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

from torchrun_trainer.snapshots.storage import Storage

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 1.0


class OwnedError(RuntimeError):
    """Another run writes its snapshots to the place."""


@dataclass(frozen=True)
class Record:
    """Who owns a place: ``token`` names one process, ``run`` all processes of a run across its restarts."""

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
    """Read a record; None if the content is not a record."""
    try:
        return Record(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None


def this_process() -> Record:
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
    """Return a name that stays the same when the run restarts; empty if there is none."""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if given not in ("", "none"):  # torchrun's default forevery run
        return given
    slurm = os.environ.get("SLURM_JOB_ID")
    return f"slurm-{slurm}" if slurm else ""


def _machine() -> str:
    """Return a name for the scope of process numbers: a boot of the host, and a container on it; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process started, in ticks since boot; empty if there is no process of this number."""
    try:
        # proc(5): the 22nd field is the start; the second, the command's name, may hold spaces and brackets.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class Owner:
    """Owns a place from ``acquire`` to ``release``. One process of a run uses it."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._own = this_process()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """The name of this process."""
        return self._own.token

    def acquire(self) -> None:
        """Take the place; nothing happens if this process owns it.

        An earlier process of the same run, or one that has ended, loses it immediately. It takes 20 s to find out
        whether a process elsewhere is alive. Raises OwnedError if it is, OSError if the place cannot be written.
        """
        if self._thread:
            return
        other = decode(self._storage.get(self._name))
        if other and not self._replaces(other):
            raise OwnedError(
                f"{self._storage.location} belongs to another run, which is alive: {other.run or 'without a name'} "
                f"(process {other.process} on {other.host}); give each run a place of its own"
            )
        self._storage.put(self._name, self._own.encode())
        self._released.clear()
        self._thread = threading.Thread(target=self._refresh, name="torchrun-trainer-owner", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise OwnedError if another process has taken the place since."""
        other = decode(self._storage.get(self._name))
        if other and other.token != self._own.token:
            kind = "a later process of this run" if other.run and other.run == self._own.run else "another run"
            raise OwnedError(
                f"{self._storage.location} was taken over by {kind} (process {other.process} on {other.host})"
            )

    def release(self) -> None:
        """Release the place, so that no other process must check whether this one is alive."""
        if not self._thread:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(Exception):  # others can do without it
            self.check()
            self._storage.remove(self._name)

    def _replaces(self, other: Record) -> bool:
        """Return whether this process may take over from the process of a record."""
        if other.run and other.run == self._own.run:
            return True
        if other.machine and other.machine == self._own.machine:
            return other.process == os.getpid() or _started(other.process) != other.started
        logger.warning(
            "%s belongs to another run on %s; waiting up to %.0f s to see whether it is alive",
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
        """Show that this process is alive; the next snapshot reports whatever goes wrong."""
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):
                self.check()
                self._own = replace(self._own, beat=self._own.beat + 1)
                self._storage.put(self._name, self._own.encode())
