"""The records of a run: the journal of workers, samples of the status, and the faults. Times: seconds since 1970."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIN, MAX = 2, 8
CAUSES = ("code", "infrastructure", "preemption", "resize")


@dataclass(frozen=True)
class Start:
    """A worker has started."""

    time: float
    pod: str
    process: int
    """Process ID in its container."""
    rank: int
    world: int
    master: str
    """Address and port of the store of rank 0, different for each round."""
    run: str
    restart: int


@dataclass(frozen=True)
class Step:
    """A step of rank 0, and thus of all ranks."""

    time: float
    master: str
    done: int
    """Number of steps done, including this one."""
    resumed: int
    """Number of steps in the snapshot from which these workers resumed."""
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
    """Parse a line of the journal; None if its process was killed while writing it."""
    try:
        values = json.loads(text)
        return _KINDS[values.pop("event")](**values)
    except (ValueError, TypeError, KeyError):
        return None


class Journal:
    """The lines of the workers, read as they appear."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.starts: list[Start] = []
        self.steps: list[Step] = []
        self.snapshots: list[Snapshot] = []
        self.ends: list[End] = []

    def follow(self) -> None:
        """Read new lines."""
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
    """A pod of the job, as seen by the API server."""

    name: str
    uid: str
    index: int | None
    """Index of the node; None for the rendezvous host."""
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
    """Number of nodes that train, from the status."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    """The uids of the nodes that the status lists as alive."""
    current: bool = True
    """Whether the status describes the current spec, and the operator is ready."""
    cut: frozenset[str] = frozenset()
    """Kubernetes nodes without power or network."""
    unready: frozenset[str] = frozenset()
    """Kubernetes nodes that the API server reports as not ready."""
    silent: frozenset[str] = frozenset()
    """Kubernetes nodes whose kubelet is stopped. Their pods continue."""
    blocked: bool = False
    """Whether a fault keeps new pods from starting."""
    operator_runs: bool = True
    """Whether the operator has a process. A kubelet restarts one that is killed often after up to 5 minutes."""
    operator_mib: int = 0
    """Resident memory of the operator."""


@dataclass(frozen=True)
class Fault:
    """A fault of the job or of its cluster."""

    number: int
    kind: str
    time: float
    until: float
    """When it was repaired, for example when a Kubernetes node started; otherwise the time of the fault."""
    target: str
    group: int
    """Faults of a group follow each other before the job has settled."""
    hits: tuple[str, ...] = ()
    """The uids of the node pods that it hit."""
    recorded: tuple[str, ...] = ()
    """Those that the status listed as alive."""
    before: int = 0
    after: int = 0
    """Number of wanted nodes before and after it."""
    failures: int = 0
    """How often it makes a round of workers fail."""


@dataclass(frozen=True)
class Group:
    """Consecutive faults, and the settled job before and after them."""

    faults: tuple[Fault, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    ended: int
    """Node pods that ended in between."""
    settled: bool = True
    """Whether the job settled afterwards."""


@dataclass(frozen=True)
class Violation:
    """A violation of a rule."""

    time: float
    rule: str
    what: str
