"""Snapshot: one snapshot as its file's name describes it.

A snapshot is an ordinary ``torch.save`` file called ``snapshot-<step>-<checksum>.pt``. The checksum is part of the
name, so one rename publishes both, and ``torch.load`` reads the file without this library. Facts may follow in the
name: ``,accuracy=0.93``, or ``,shards=<id>`` if the directory ``shards-<step>-<id>`` belongs to the snapshot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

PREFIX = "snapshot-"
SHARDS = "shards"
"""The fact that says that a snapshot has shards, and how their directories' names begin."""
_NAME = re.compile(r"snapshot-(\d{12})-([0-9a-f]{16})((?:,[\w.-]+=[\w.+-]+)*)\.pt")
_NO_NAME_CHARACTER = re.compile(r"[^\w.-]")


class SnapshotError(RuntimeError):
    """No snapshot can be read though there are some, or one cannot be read or written that must be."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot: its path or URL, the number of steps done when it was taken, and that time (UTC).

    ``facts`` is what else its name says, such as the metric that it was kept for.
    """

    location: str
    step: int
    time: datetime
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Return its file. Raises ValueError if it lies at a URL."""
        if "://" in self.location:
            raise ValueError(f"{self.location} is no file")
        return Path(self.location)

    @property
    def name(self) -> str:
        """Return the last part of its path or URL."""
        return self.location.replace("\\", "/").rpartition("/")[2]

    @property
    def shards(self) -> str | None:
        """Return the name of the directory with its shards, beside it; None if nothing in it is sharded."""
        return shards_directory(self.step, self.facts) if SHARDS in self.facts else None

    def metric(self, name: str) -> float:
        """Return a number from its name; NaN if the name has none."""
        try:
            return float(self.facts.get(name, "nan"))
        except ValueError:
            return math.nan


class ParsedName(NamedTuple):
    """What the name of a snapshot's file says."""

    step: int
    checksum: str
    facts: dict[str, str]


def parse_name(name: str) -> ParsedName | None:
    """Parse the name of a file; None if it is not that of a snapshot in a directory."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    facts = dict(fact.split("=", 1) for fact in match[3].split(",")[1:])
    return ParsedName(int(match[1]), match[2], facts)


def file_name(step: int, checksum: str, facts: Mapping[str, str]) -> str:
    """Return the name of a snapshot's file."""
    tail = "".join(f",{key}={value}" for key, value in sorted(facts.items()))
    return f"{PREFIX}{step:012d}-{checksum}{tail}.pt"


def fact_name(name: str) -> str:
    """Return how a name, such as that of a metric, is written in the name of a file."""
    return _NO_NAME_CHARACTER.sub("_", name)


def shards_directory(step: int, facts: Mapping[str, str]) -> str:
    """Return the name of the directory with the shards of a snapshot that has these facts in its name."""
    return f"{SHARDS}-{step:012d}-{facts[SHARDS]}"
