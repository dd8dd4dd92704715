"""The result of a check, and the table form that all checks share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

Object = dict[str, Any]
Case = TypeVar("Case")


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be checked: a right is missing, or nothing tells."""
    WARNING = "warning"
    """It may keep something from working, or makes it work worse."""
    FAILED = "failed"


class Finding(NamedTuple):
    """The result of a check: one line, and what to do."""

    check: str
    level: Level
    message: str
    advice: str = ""
    details: tuple[str, ...] = ()
    """Further lines, such as one for each Kubernetes node."""


def ok(check: str, message: str) -> Finding:
    """Return a good result."""
    return Finding(check, Level.OK, message)


class Unread(NamedTuple):
    """A list that could not be read."""

    why: str
    """For people: `not allowed to read resourcequotas in the namespace ml`."""


Listed = tuple[Object, ...] | Unread


@dataclass(frozen=True)
class Seen:
    """What was read: each list once."""

    now: datetime
    """The local time."""
    lists: Mapping[str, Listed] = field(default_factory=dict)
    server_time: datetime | None = None
    """The time of the API server. None: it did not say."""

    def get(self, name: str) -> tuple[Object, ...]:
        """Return a list; an empty one if it could not be read, which :func:`run` reports."""
        found = self.lists.get(name, ())
        return () if isinstance(found, Unread) else found


@dataclass(frozen=True)
class Check(Generic[Case]):
    """One check. It is skipped, and says why, where a list that it needs could not be read."""

    name: str
    find: Callable[[Case, str], Iterable[Finding]]
    """Gets the name as well. No finding: the check does not apply."""
    needs: tuple[str, ...] = ()


def run(checks: Iterable[Check[Case]], case: Case, seen: Seen) -> list[Finding]:
    """Return the results of all checks, in their order."""
    found: list[Finding] = []
    for check in checks:
        unread = next((each for name in check.needs if isinstance(each := seen.lists.get(name), Unread)), None)
        if unread is not None:
            found.append(Finding(check.name, Level.UNKNOWN, f"{unread.why}: skipped"))
        else:
            found += check.find(case, check.name)
    return found


def names(found: Iterable[str], most: int = 3) -> str:
    """Return names for a sentence, the first of them if there are many."""
    every = list(found)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def many(number: int, noun: str) -> str:
    """Return a number with its noun: `1 node`, `3 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
