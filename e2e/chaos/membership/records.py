"""What is known of a run: the workers' journal, samples of the status, and the faults. Times: seconds since 1970."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIN, MAX = 2, 8
CAUSES = ("code", "infrastructure", "preemption", "resize")


@dataclass(frozen=True)
class Start:
    """A worker process has been started."""

    time: float
    pod: str
    process: int
    """Its number in its container."""
    rank: int
    world: int
    master: str
    """Address and port of rank 0's store: of its own for each round."""
    run: str
    restart: int


@dataclass(frozen=True)
class Step:
    """Rank 0 has done a step, and with it all ranks."""

    time: float
    master: str
    done: int
    """Steps done, this one included."""
    resumed: int
    """The steps that were done when these workers went on from a snapshot."""
    world: int


@dataclass(frozen=True)
class Snapshot:
    """A snapshot was complete."""

    time: float
    master: str
    step: int


@dataclass(frozen=True)
class End:
    """A worker has done the last step."""

    time: float
    master: str
    step: int


Line = Start | Step | Snapshot | End
_KINDS: Mapping[str, type[Line]] = {"start": Start, "step": Step, "snapshot": Snapshot, "end": End}


def parse(text: str) -> Line | None:
    """Read a line of the journal; None where its process was killed while it wrote it."""
    try:
        values = json.loads(text)
        return _KINDS[values.pop("event")](**values)
    except (ValueError, TypeError, KeyError):
        return None


class Journal:
    """The lines that the workers have written, read as they come."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.starts: list[Start] = []
        self.steps: list[Step] = []
        self.snapshots: list[Snapshot] = []
        self.ends: list[End] = []

    def follow(self) -> None:
        """Read what is new."""
        for path in self._directory.glob("*.jsonl"):
            position = self._read.get(path, 0)
            if path.stat().st_size <= position:
                continue
            with path.open("rb") as file:
                file.seek(position)
                complete = file.read().rpartition(b"\n")[0]
            self._read[path] = position + len(complete) + 1 if complete else position
            for text in complete.splitlines():
                self._add(parse(text.decode(errors="replace")))
        for lines in (self.starts, self.steps, self.snapshots):
            lines.sort(key=lambda line: line.time)

    def _add(self, line: Line | None) -> None:
        match line:
            case Start():
                self.starts.append(line)
            case Step():
                self.steps.append(line)
            case Snapshot():
                self.snapshots.append(line)
            case End():
                self.ends.append(line)


@dataclass(frozen=True)
class Pod:
    """A pod of the job as the API server knew it."""

    name: str
    uid: str
    index: int | None
    """Of a node; None: the rendezvous host."""
    machine: str
    phase: str
    terminating: bool = False


@dataclass(frozen=True)
class Sample:
    """The job at one moment."""

    time: float
    wanted: int
    nodes: tuple[Pod, ...]
    host: Pod | None
    state: str = ""
    members: int = 0
    """Nodes that train, by the job's status."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    """The uids of the nodes that the status calls alive."""
    current: bool = True
    """Whether the status is about the present spec, and the operator is ready."""
    cut: frozenset[str] = frozenset()
    """Machines without power or network."""
    unready: frozenset[str] = frozenset()
    """Machines that the API server calls not ready."""


@dataclass(frozen=True)
class Fault:
    """Something that was done to the job or to its cluster."""

    number: int
    kind: str
    time: float
    until: float
    """When it was put right again, as a machine is started; otherwise the time at which it was done."""
    target: str
    group: int
    """Faults of a group follow each other before the job has settled."""
    hits: tuple[str, ...] = ()
    """The uids of the node pods that it was aimed at."""
    recorded: tuple[str, ...] = ()
    """Those of them that the status knew as alive."""
    before: int = 0
    after: int = 0
    """Nodes wanted before and after it."""


@dataclass(frozen=True)
class Group:
    """Faults that followed each other, and the settled job before and after them."""

    faults: tuple[Fault, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    ended: int
    """Node pods that ended meanwhile."""
    settled: bool = True
    """Whether the job did settle afterwards."""


@dataclass(frozen=True)
class Violation:
    """Something that must not be."""

    time: float
    rule: str
    what: str
