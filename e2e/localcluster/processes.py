"""Processes of a cluster: identified, started detached, and ended reliably."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from localcluster.files import key_of, read_json, write_json
from localcluster.shell import TOOL_PATH, ClusterError

MARK = "TORCHRUN_LOCAL_CLUSTER"  # In the environment of every process started here: the id of the cluster.
_PROC = Path("/proc")
_children: list[subprocess.Popen[bytes]] = []  # Not garbage collected before this program ends: they must outlive it.


@dataclass(frozen=True)
class Identity:
    """A unique process: another one may get its id, but not with the same start (clock ticks since boot)."""

    pid: int
    start: int


@dataclass(frozen=True)
class Process:
    """The facts about a process in /proc."""

    identity: Identity
    parent: int
    zombie: bool
    netns: int | None = None
    mark: str | None = None


def parse_stat(text: str) -> Process:
    """Process that a /proc/PID/stat describes; its name, in parentheses, may contain any character."""
    pid = int(text[: text.index("(")])
    fields = text[text.rindex(")") + 1 :].split()
    return Process(Identity(pid, int(fields[19])), parent=int(fields[1]), zombie=fields[0] in "ZX")


def parse_environment(data: bytes) -> dict[str, str]:
    """Variables that a /proc/PID/environ lists."""
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def look(pid: int) -> Process | None:
    """The current facts about one process in /proc; None if it does not exist."""
    try:
        found = parse_stat((_PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    netns: int | None = None
    mark: str | None = None
    with contextlib.suppress(OSError):
        netns = (_PROC / str(pid) / "ns/net").stat().st_ino
        mark = parse_environment((_PROC / str(pid) / "environ").read_bytes()).get(MARK)
    return Process(found.identity, found.parent, found.zombie, netns, mark)


def everyone() -> list[Process]:
    """All current processes of this computer."""
    found = (look(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return [process for process in found if process is not None]


def alive(identity: Identity) -> bool:
    """Whether exactly this process still runs and is not a zombie."""
    found = look(identity.pid)
    return found is not None and found.identity == identity and not found.zombie


def belonging(
    processes: Iterable[Process], *, mark: str, netns: Collection[int], recorded: Collection[Identity]
) -> list[Process]:
    """The processes of a cluster: marked with its id, inside its network namespaces, or recorded at their start."""
    return [
        process
        for process in processes
        if not process.zombie and (process.mark == mark or process.netns in netns or process.identity in recorded)
    ]


def end(identities: Iterable[Identity], *, grace: float = 0.0, patience: float = 20.0) -> None:
    """End processes: with SIGTERM for `grace` seconds if that is above 0, then with SIGKILL. Raises ClusterError."""
    remaining = [identity for identity in identities if identity.pid != os.getpid()]
    if grace > 0:
        remaining = _signal_and_wait(remaining, signal.SIGTERM, grace)
    remaining = _signal_and_wait(remaining, signal.SIGKILL, patience)
    if remaining:
        raise ClusterError(f"processes do not end: {', '.join(str(identity.pid) for identity in remaining)}")


def _signal_and_wait(identities: list[Identity], number: signal.Signals, seconds: float) -> list[Identity]:
    for identity in identities:
        _send(identity, number)
    deadline = time.monotonic() + seconds
    while True:
        identities = [identity for identity in identities if alive(identity)]
        if not identities or time.monotonic() > deadline:
            return identities
        time.sleep(0.02)


def _send(identity: Identity, number: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor belongs to the process that it was opened for, so the check still holds for the signal.
        if alive(identity):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def start(argv: Sequence[str], log: Path, mark: str, environment: Mapping[str, str] | None = None) -> Identity:
    """Start a program that outlives this one: own session, clean environment, output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": TOOL_PATH, "LANG": "C.UTF-8", **(environment or {}), MARK: mark},
            cwd="/",
            start_new_session=True,
        )
    _children.append(process)
    found = look(process.pid)
    if found is None:
        raise ClusterError(f"{argv[0]} ended at once; see {log}")
    return found.identity


@dataclass(frozen=True)
class Record:
    """A started service."""

    identity: Identity
    argv: list[str]
    configuration: str  # Key of its configuration files.


def save(path: Path, record: Record) -> None:
    """Remember a started service."""
    write_json(path, asdict(record))


def load(path: Path) -> Record | None:
    """The recorded service, alive or not."""
    value = read_json(path)
    return Record(Identity(**value["identity"]), value["argv"], value.get("configuration", "")) if value else None


def ensure(path: Path, argv: list[str], log: Path, mark: str, files: Sequence[Path] = ()) -> bool:
    """Run a service as `argv` with these configuration files. Returns whether it had to start.

    A service with another command or other contents of the files restarts.
    """
    configuration = key_of(file.read_bytes() for file in files)
    record = load(path)
    if record and alive(record.identity):
        if record.argv == argv and record.configuration == configuration:
            return False
        stop(path)
    save(path, Record(start(argv, log, mark), argv, configuration))
    return True


def stop(path: Path) -> None:
    """End a service and its direct children, and remove its record."""
    record = load(path)
    if record and alive(record.identity):
        # nsenter stays outside and waits for its program, so the program must end first.
        children = [process.identity for process in everyone() if process.parent == record.identity.pid]
        end([*children, record.identity], grace=10)
    path.unlink(missing_ok=True)
