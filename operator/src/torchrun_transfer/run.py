"""Repeats passes until an output or input is complete, with longer and longer waits after failures."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from torchrun_transfer.backoff import Failures
from torchrun_transfer.download import Downloaded, Downloader
from torchrun_transfer.fetch import Fetched, Fetcher
from torchrun_transfer.report import Result
from torchrun_transfer.stores.base import Source, Store
from torchrun_transfer.stores.locate import store_of
from torchrun_transfer.task import Task
from torchrun_transfer.troubles import is_fatal, words
from torchrun_transfer.upload import Pass, Uploader

logger = logging.getLogger("transfer")


@dataclass(frozen=True)
class Defeat:
    """Why no further attempt is made."""

    why: str
    fatal: bool
    """A person must change something."""


@dataclass(frozen=True)
class Runner:
    """Runs passes. Clock and waits are arguments, so that tests need not wait."""

    locate: Callable[[str], Store] = store_of
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    _known: dict[str, Store] = field(default_factory=dict)
    """The stores by URL: a new one costs a second, and connections."""

    def upload(self, task: Task) -> Result:
        """Send an output once and completely."""
        done = Pass()
        defeat = self._until_done(task, lambda: self._send(task, self._store(task.url), done), lambda: done.sent)
        size = sum(entry.size for entry in done.entries.values())
        return Result(len(done.entries), size, defeat.why if defeat else "")

    def upload_periodically(self, task: Task) -> Result:
        """Send what has settled, again and again. Returns only if a person must change something."""
        while True:
            defeat = self._one_period(task) if os.path.exists(task.path) else None
            if defeat is not None and defeat.fatal:
                return Result(error=defeat.why)
            self.pause(task.every_seconds or 0.0)

    def fetch(self, task: Task) -> Result:
        """Fetch an input."""
        done = Fetched()
        defeat = self._until_done(task, lambda: Fetcher(task, self._store(task.url)).one_pass(done), lambda: done.read)
        return Result(done.files, done.bytes, defeat.why if defeat else "")

    def download(self, task: Task, source: Source, done: Downloaded) -> Result:
        """Download a complete output from a store that is known already."""
        defeat = self._until_done(task, lambda: Downloader(task, source).one_pass(done), lambda: done.read)
        return Result(done.files, done.bytes, defeat.why if defeat else "")

    def _one_period(self, task: Task) -> Defeat | None:
        done = Pass()
        return self._until_done(
            task, lambda: self._send(task, self._store(task.url), done, settled_only=True), lambda: done.sent
        )

    def _send(self, task: Task, store: Store, done: Pass, *, settled_only: bool = False) -> None:
        done.changed.clear()
        Uploader(task, store, self.clock, self._stamp).one_pass(done, settled_only=settled_only)

    def _stamp(self) -> str:
        # Not datetime.UTC: the Python of the image may be 3.10.
        return datetime.fromtimestamp(self.clock(), tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _until_done(self, task: Task, attempt: Callable[[], None], progress: Callable[[], int]) -> Defeat | None:
        """Make attempts until one succeeds. Return why the last one failed, or None."""
        failures = Failures()
        while True:
            before = progress()
            try:
                attempt()
            except Exception as error:
                now, fatal, why = self.clock(), is_fatal(error), words(error, task.url)
                failures = (Failures() if progress() > before else failures).one_more(now)
                wait = failures.wait_seconds(now, task.patience_seconds, fatal=fatal)
                if wait is None:
                    logger.error("%s; giving up after %d attempts", why, failures.count)
                    return Defeat(why, fatal)
                logger.warning("%s; next attempt in %.0f s", why, wait)
                self.pause(wait)
            else:
                return None

    def _store(self, url: str) -> Store:
        if url not in self._known:
            self._known[url] = self.locate(url)
        return self._known[url]
