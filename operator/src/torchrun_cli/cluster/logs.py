"""The logs of all nodes of a job: the history in the order of time, then what comes, from new pods too."""

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Final, NamedTuple

from torchrun_cli.cluster.answers import ApiError
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.follow import Feed
from torchrun_cli.cluster.loglines import LogLine, Place, Source, Wish, open_log
from torchrun_cli.cluster.resources import JOBS, PODS
from torchrun_cli.cluster.transport import UnreachableError
from torchrun_cli.errors import CliError
from torchrun_operator.api.names import LABEL_NODE_INDEX, TRAINER_CONTAINER, node_selector

_WAITING_LINES: Final = 2000
"""Readers wait while so many lines are not printed yet: the memory stays bounded, however much the pods write."""
_PAUSE: Final = 1.0
_MOST_TRIES: Final = 60


class Entry(NamedTuple):
    """A line and where it is from."""

    source: Source
    line: LogLine


def source_of(pod: dict[str, Any], container: str = TRAINER_CONTAINER) -> Source:
    """Return the container of a pod of a job."""
    metadata = pod["metadata"]
    index = (metadata.get("labels") or {}).get(LABEL_NODE_INDEX, "")
    return Source(
        metadata["namespace"], metadata["name"], metadata["uid"], container, int(index) if index.isdigit() else 0
    )


def container_state(pod: dict[str, Any], container: str) -> str:
    """Return `running`, `terminated` or `waiting`: what the container does."""
    status = pod.get("status") or {}
    every = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    found: dict[str, Any] = next((each for each in every if each.get("name") == container), {})
    return next(iter(found.get("state") or {}), "waiting")


def node_pods(client: Client, job: str) -> list[dict[str, Any]]:
    """Return the pods of the nodes of a job, by index. Raises ApiError."""
    pods, _ = client.list(PODS, client.namespace, labels=node_selector(job))
    return sorted(pods, key=lambda pod: (source_of(pod).node, pod["metadata"]["name"]))


def history(
    client: Client, sources: list[Source], wish: Wish, note: Callable[[str], None]
) -> Iterator[tuple[Entry, Place]]:
    """Yield the lines that are there, all logs together in the order of time. ``note`` hears which logs are missing.

    Each line comes with the place in its log at which :class:`Follower` continues.
    """
    with ExitStack() as opened:
        logs = [log for source in sources if (log := _opened(opened, client, source, wish, note)) is not None]
        yield from heapq.merge(*logs, key=lambda found: found[0].line.time)


def _opened(
    opened: ExitStack, client: Client, source: Source, wish: Wish, note: Callable[[str], None]
) -> Iterator[tuple[Entry, Place]] | None:
    try:
        found = opened.enter_context(open_log(client, source, wish))
    except (ApiError, UnreachableError) as error:
        note(f"{source.pod}: {error.message}")
        return None
    return _entries(source, found, note)


def _entries(source: Source, found: Iterator[LogLine], note: Callable[[str], None]) -> Iterator[tuple[Entry, Place]]:
    place = Place()
    try:
        for line in found:
            place.is_new(line)
            yield Entry(source, line), place
    except UnreachableError as error:
        note(f"{source.pod}: {error.message}")


@dataclass
class Follower:
    """Reads the logs of all pods of a job as they grow, and of the pods that come. One thread reads one log.

    ``wanted`` decides by a pod and the job whether its log counts, ``ended`` whether the job is over.
    """

    client: Client
    job: str
    container: str
    wish: Wish
    wanted: Callable[[dict[str, Any], dict[str, Any]], bool]
    ended: Callable[[dict[str, Any]], bool]
    note: Callable[[str], None]
    pause: Callable[[float], None] = time.sleep
    changed: Callable[[dict[str, Any]], None] = lambda _: None
    """Gets each version of the job, in another thread."""
    places: dict[str, Place] = field(default_factory=dict)
    """Where each log continues, by the uid of its pod. Of pods that come later, all lines count."""
    last: dict[str, Any] = field(default_factory=dict)
    """The job, as it was seen last."""

    def __post_init__(self) -> None:
        self._lines: Queue[Entry | None] = Queue(_WAITING_LINES)
        self._feed = Feed(self.client, PODS, self.client.namespace, labels=node_selector(self.job), sleep=self.pause)
        self._pods: dict[str, dict[str, Any]] = {}
        self._known = frozenset(self.places)
        self._readers: dict[str, threading.Thread] = {}
        self._over = threading.Event()
        self._failed: CliError | None = None
        self._lock = threading.Lock()

    def entries(self) -> Iterator[Entry]:
        """Yield lines until the job has ended and all its logs are read. Raises CliError if a right is gone."""
        for watch in (self._watch_job, self._watch_pods):
            threading.Thread(target=watch, daemon=True).start()
        while True:
            try:
                entry = self._lines.get(timeout=0.2)
            except Empty:
                if self._failed is not None:
                    raise self._failed from None
                if self._over.is_set() and self._is_read():
                    return
                continue
            if entry is not None:
                yield entry

    @property
    def idle(self) -> bool:
        """Whether no line waits."""
        return self._lines.empty()

    def _is_read(self) -> bool:
        """Whether no log may get another line."""
        with self._lock:
            readers = list(self._readers.values())
        return self._feed.synced and not any(reader.is_alive() for reader in readers) and self._lines.empty()

    def _watch_job(self) -> None:
        feed = Feed(self.client, JOBS, self.client.namespace, fields=f"metadata.name={self.job}", sleep=self.pause)
        try:
            for change in feed.changes():
                self.last = change.object
                self.changed(change.object)
                self._start_readers()
                if change.deleted or self.ended(change.object):
                    break
        except CliError as error:
            self._failed = error
        self._over.set()

    def _watch_pods(self) -> None:
        try:
            for change in self._feed.changes():
                with self._lock:
                    if change.deleted:
                        self._pods.pop(change.object["metadata"]["uid"], None)
                    else:
                        self._pods[change.object["metadata"]["uid"]] = change.object
                self._start_readers()
        except CliError as error:
            self._failed = error

    def _start_readers(self) -> None:
        with self._lock:
            for uid, pod in self._pods.items():
                started = container_state(pod, self.container) != "waiting"
                if started and uid not in self._readers and self.last and self.wanted(pod, self.last):
                    source = source_of(pod, self.container)
                    place = self.places.setdefault(uid, Place())
                    reader = threading.Thread(target=self._read, args=(source, place), daemon=True)
                    self._readers[uid] = reader
                    reader.start()

    def _read(self, source: Source, place: Place) -> None:
        """Read one log to its end, over as many connections as that takes."""
        failures, opened = 0, False
        while failures < _MOST_TRIES:
            # A log is complete if the container had ended before the stream was opened.
            complete = self._has_ended(source)
            tail = self.wish.tail if source.uid in self._known and not place.time else None
            wish = Wish(place.since() or self.wish.since, tail)
            try:
                if opened and not self._is_there(source):
                    return
                opened = True
                place.reopened()
                with open_log(self.client, source, wish, follow=True) as found:
                    for line in found:
                        failures = 0
                        if place.is_new(line):
                            self._lines.put(Entry(source, line))
                if complete:
                    return
                failures = 0
            except (ApiError, UnreachableError) as error:
                if isinstance(error, ApiError) and error.status in (403, 404):
                    if error.status == 403:
                        self._failed = error
                    return
                if failures == 0:
                    self.note(f"{source.pod}: {error.message}; trying again")
                failures += 1
            self.pause(min(_PAUSE * (failures + 1), 5.0))
        self.note(f"{source.pod}: gave up reading its log")

    def _is_there(self, source: Source) -> bool:
        """Whether the pod still exists. Its replacement has the same name, and so the same path of the log."""
        found = self.client.find(PODS, source.pod)
        return found is not None and bool(found["metadata"]["uid"] == source.uid)

    def _has_ended(self, source: Source) -> bool:
        with self._lock:
            pod = self._pods.get(source.uid)
        return pod is None or container_state(pod, source.container) == "terminated"
