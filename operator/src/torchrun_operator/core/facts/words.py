"""The error of a failed worker: from torchrun's error file in the termination message, or from the end of the log.

torchrun writes an error file only for functions with its `record` decorator, and copies it to the termination message
only when the agent itself ends. Python and torchrun's agent print every failure, so the log has the others. Pure.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_MESSAGE_CHARACTERS = 500
_TRACEBACK_CHARACTERS = 2000
_BURST = timedelta(seconds=5)
"""Errors of one pod within this time belong to one failure. The first one caused the others."""
_LINE = re.compile(r"(\S+Z) (.*)")
_TEE = re.compile(r"\[(?!rank\d)[A-Za-z_]+\d+\]:")
"""The prefix of each line with torchrun's --tee."""
_RANK = re.compile(r"\[rank(\d+)\]: ?")
"""The prefix of a traceback after init_process_group."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: .*)?$")
_CUT_FILE = re.compile(r'\\n([^"\\]+)(?:\\n)?",\s*"timestamp"')
"""The end of an error file without its beginning: a kubelet keeps 4096 bytes."""
_ECHOING_CODES = (1, -15)
"""How workers end after others failed: with an exception of their own, or by the SIGTERM of their agent."""
_ENDED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""The line of torchrun's agent for each worker that failed (torch.distributed.elastic.multiprocessing.api)."""
PEER_GONE = (
    r"DistNetworkError\b",
    "closed by peer",
    "reset by peer",
    "remote process exited",
    "Broken pipe",
    "Connection refused",
)
"""Errors of a worker that has lost another one. The trainer library cannot import this and has the same patterns."""
_AGENT_ERRORS = (r"(RendezvousClosed|RendezvousConnection|ChildFailed)Error\b", r"SignalException\b")
_ECHOES = re.compile("|".join((*_AGENT_ERRORS, *PEER_GONE)))
"""Errors that follow from another failure."""


@dataclass(frozen=True)
class Words:
    """The error of a worker."""

    message: str = ""
    """The exception in one line."""
    traceback: str = ""
    """The beginning and the end of the traceback."""
    rank: int | None = None
    local_rank: int | None = None
    exit_code: int | None = None
    """Negative: the number of the signal that ended the worker."""
    time: datetime | None = None


def of_termination(message: str) -> Words:
    """Read a termination message: torchrun's error file, or other text of the container or of Kubernetes."""
    try:
        content = json.loads(message)["message"]
        if isinstance(content, str):
            return Words(_short(content))
        extra = content.get("extraInfo") or {}
        return Words(_short(str(content["message"])), _clipped(str(extra.get("py_callstack") or "")))
    except (ValueError, LookupError, TypeError, AttributeError):
        cut = _CUT_FILE.search(message)
        if cut is not None:
            return Words(_short(cut[1]))
        return Words(_short(next((line for line in message.splitlines() if line.strip()), "")))


def of_log(text: str, *, after: datetime | None = None, until: datetime | None = None) -> Words | None:
    """Return the first error of the newest failure in a log whose lines begin with their times, within these times."""
    lines = _lines(text, after, until)
    errors = sorted(_errors(lines), key=lambda found: found.time)  # type: ignore[arg-type, return-value]
    newest = errors[-1].time if errors else None
    burst = [e for e in errors if newest is not None and e.time is not None and newest - e.time <= _BURST]
    causes = [error for error in burst if not _echoes(error)]
    ends = list(_ends(lines))
    wordless = [end for end in ends if end.exit_code not in _ECHOING_CODES]
    first = next(iter(causes or wordless or burst or ends), None)
    if first is None or first.exit_code is not None or first.time is None:
        return first
    end = next((end for end in ends if end.time is not None and end.time >= first.time), None)
    return replace(first, exit_code=end.exit_code, local_rank=end.local_rank) if end is not None else first


def earliest(found: Iterable[tuple[str, Words]]) -> tuple[str, Words] | None:
    """Return the earliest error, by the clocks of the Kubernetes nodes. Echoes come last."""

    def order(item: tuple[str, Words]) -> tuple[int, float]:
        words = item[1]
        at = words.time.timestamp() if words.time is not None else float("inf")
        kind = 2 if _echoes(words) else 0 if words.message else 1
        return kind, at

    return min(found, key=order, default=None)


def _echoes(words: Words) -> bool:
    return _ECHOES.search(words.message) is not None


def _lines(text: str, after: datetime | None, until: datetime | None) -> list[tuple[datetime, str]]:
    lines = []
    for line in text.splitlines():
        match = _LINE.match(line)
        time = _time(match[1]) if match is not None else None
        if match is None or time is None or (after and time <= after) or (until and time > until):
            continue
        lines.append((time, _TEE.sub("", match[2], count=1)))
    return lines


def _errors(lines: Iterable[tuple[datetime, str]]) -> Iterable[Words]:
    """Find the tracebacks. Lines of several workers may be mixed, but each line of a rank has its number."""
    open_: dict[str, tuple[datetime, list[str]]] = {}
    for time, line in lines:
        match = _RANK.match(line)
        rank, text = (match[1], line[match.end() :]) if match is not None else ("", line)
        if text.startswith("Traceback (most recent call last):"):
            open_[rank] = (time, [text])
        elif rank in open_:
            began, collected = open_[rank]
            collected.append(text)
            if text[:1] not in ("", " ") and _EXCEPTION.match(text):
                del open_[rank]
                yield Words(_short(text), _clipped("\n".join(collected)), rank=int(rank) if rank else None, time=began)


def _ends(lines: Iterable[tuple[datetime, str]]) -> Iterable[Words]:
    for time, line in lines:
        match = _ENDED.search(line)
        if match is not None:
            yield Words(exit_code=int(match[1]), local_rank=int(match[2]), time=time)


def _time(text: str) -> datetime | None:
    try:
        # Kubernetes writes nanoseconds, Python reads microseconds.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None


def _short(text: str) -> str:
    return text.strip()[:_MESSAGE_CHARACTERS]


def _clipped(text: str) -> str:
    """Keep the beginning, which shows the origin, and the end, which shows the exception."""
    text = text.strip()
    if len(text) <= _TRACEBACK_CHARACTERS:
        return text
    half = (_TRACEBACK_CHARACTERS - 5) // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
