"""Sends an output: new and changed files first, the manifest last.

At every moment, whatever happens: if the manifest is at the store, then all files that it lists are there as listed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from torchrun_transfer import manifest
from torchrun_transfer.manifest import JOURNAL, MANIFEST, Entry, Manifest
from torchrun_transfer.plan import Local, Plan, plan
from torchrun_transfer.stores.base import Store
from torchrun_transfer.task import Task
from torchrun_transfer.tree import Reading, full_path, scan
from torchrun_transfer.troubles import ChangedError

logger = logging.getLogger("transfer")

_AT_ONCE = 4
_JOURNAL_SECONDS = 5.0
"""Time between two writes of the journal. What a killed upload sent since the last one is sent again."""
SETTLED_SECONDS = 5.0
"""While a job trains, a file is sent once it has not changed for this long."""


@dataclass
class Pass:
    """What one pass has done so far. It is filled while the pass runs, so that progress counts even if it fails."""

    sent: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """Files that changed while they were read."""


@dataclass(frozen=True)
class Uploader:
    """Sends one output to one store."""

    task: Task
    store: Store
    clock: Callable[[], float]
    """Seconds since the epoch."""
    stamp: Callable[[], str]
    """The time for the manifest."""

    def one_pass(self, done: Pass, *, settled_only: bool = False) -> None:
        """Bring the store up to date. ``settled_only`` leaves out files that may still be written.

        Raises ChangedError after everything else is sent if files changed meanwhile, and the errors of the store.
        """
        local = scan(self.task.path, self.task.include, self.task.exclude)
        if settled_only:
            latest = (self.clock() - SETTLED_SECONDS) * 1e9
            local = {path: file for path, file in local.items() if file.modified <= latest}
        listed, journal = self._read(MANIFEST), self._read(JOURNAL)
        todo = plan(local, self.store.files(), listed, journal)
        done.entries = dict(todo.kept)
        if todo.done:
            if journal is not None:
                self.store.tidy()
                self.store.remove(JOURNAL)
            return
        self.store.tidy(keep=todo.send)
        if todo.withdraw:
            self._write(JOURNAL, done.entries)  # first: it knows what is there
            self.store.remove(MANIFEST)
        self._send_all(local, todo, done)
        if done.changed and not settled_only:
            raise ChangedError(f"{done.changed[0]} changed while it was read; stop writing to {self.task.path}")
        self._write(MANIFEST, done.entries)
        self.store.tidy()
        self.store.remove(JOURNAL)

    def _send_all(self, local: dict[str, Local], todo: Plan, done: Pass) -> None:
        """Send files, some at once, and keep the journal. The first error ends it, once those in flight have ended."""
        recorded_at = self.clock()
        waiting = iter(todo.send)
        running: dict[Future[Entry], str] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                while True:
                    for path in self._next(waiting, _AT_ONCE - len(running)):
                        running[pool.submit(self._send, path, local[path])] = path
                    if not running:
                        return
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        self._take(future, running.pop(future), done)
                    if self.clock() - recorded_at >= _JOURNAL_SECONDS:
                        self._write(JOURNAL, done.entries)
                        recorded_at = self.clock()
            except BaseException:
                wait(running)
                for future, path in running.items():
                    with contextlib.suppress(Exception):
                        self._take(future, path, done)
                if done.sent:
                    with contextlib.suppress(Exception):  # the store may be gone
                        self._write(JOURNAL, done.entries)
                raise

    @staticmethod
    def _next(waiting: Iterator[str], count: int) -> list[str]:
        return [path for _, path in zip(range(count), waiting, strict=False)]

    def _take(self, future: Future[Entry], path: str, done: Pass) -> None:
        try:
            done.entries[path] = future.result()
        except ChangedError:
            done.changed.append(path)
        else:
            done.sent += 1

    def _send(self, path: str, source: Local) -> Entry:
        reading = Reading(full_path(self.task.path, path), source)
        copy = self.store.put(path, reading.blocks(), source.size)
        logger.info("sent %s (%d bytes)", path, source.size)
        return Entry(source.size, reading.sha256, source.modified, copy.tag)

    def _read(self, name: str) -> Manifest | None:
        return manifest.read(self.store.get(name))

    def _write(self, name: str, entries: dict[str, Entry]) -> None:
        content = manifest.written(Manifest(entries, self.task.job or {}), self.stamp())
        self.store.put(name, [content], len(content))
