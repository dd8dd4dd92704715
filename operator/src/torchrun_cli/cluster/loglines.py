"""The log of one container: its lines with their times, and the place at which reading continues."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, NamedTuple

from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.follow import lines
from torchrun_cli.cluster.resources import PODS

LONGEST_LINE: Final = 32 * 1024
"""Bytes. Longer lines come in pieces, so that the memory of many streams stays small."""
_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


class LogLine(NamedTuple):
    """A line of a log. `time` is in UTC, with nanoseconds, so that times compare as texts."""

    time: str
    text: bytes


class Source(NamedTuple):
    """A container of a pod."""

    namespace: str
    pod: str
    uid: str
    container: str
    node: int
    """The index of the node."""


class Place:
    """Where reading continues. The API server takes whole seconds, so it sends some lines again."""

    def __init__(self) -> None:
        self.time = ""
        self._read = 0
        """How many lines of that time were read."""
        self._again = 0
        """How many lines of that time have come again since the stream was opened."""

    def reopened(self) -> None:
        """Note that a new stream begins."""
        self._again = 0

    def is_new(self, line: LogLine) -> bool:
        """Whether a line was not read before. The lines of a stream must come in their order."""
        if line.time == self.time:
            self._again += 1
            if self._again <= self._read:
                return False
            self._read = self._again
            return True
        if line.time < self.time:
            return False
        self.time, self._read, self._again = line.time, 1, 1
        return True

    def since(self) -> str:
        """Return the second to begin with; empty: at the beginning."""
        return f"{self.time[:19]}Z" if self.time else ""


class Wish(NamedTuple):
    """Which lines of a log are wanted."""

    since: str = ""
    """An RFC 3339 time in whole seconds; empty: all."""
    tail: int | None = None
    previous: bool = False


@contextmanager
def open_log(client: Client, source: Source, wish: Wish, *, follow: bool = False) -> Iterator[Iterator[LogLine]]:
    """Open a log, and give its lines. Raises ApiError, and UnreachableError if the connection breaks."""
    query = {
        "container": source.container,
        "timestamps": "true",
        "follow": "true" if follow else "",
        "sinceTime": wish.since,
        "tailLines": str(wish.tail) if wish.tail is not None else "",
        "previous": "true" if wish.previous else "",
    }
    path = PODS.path(source.namespace, source.pod, "log")
    with client.stream(path, query, seconds=None if follow else 60.0) as chunks:
        yield _read(chunks)


def _read(chunks: Iterator[bytes]) -> Iterator[LogLine]:
    """Yield the lines. The rest of a long line has the time of its beginning."""
    time = ""
    for line in lines(chunks, LONGEST_LINE):
        stamp = _STAMP.match(line)
        if stamp is None:
            yield LogLine(time, line)
        else:
            time = _in_utc(stamp)
            yield LogLine(time, line[stamp.end() :])


def _in_utc(stamp: re.Match[bytes]) -> str:
    seconds, fraction, zone = (part.decode() if part else "" for part in stamp.groups())
    if zone != "Z":
        seconds = datetime.fromisoformat(seconds + zone).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{fraction.ljust(9, '0')}"
