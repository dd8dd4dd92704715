"""What a failed worker left behind: torchrun's error file in the termination message, or the end of its pod's log.

torchrun writes an error file only for functions under its `record` decorator, and it reaches the termination message
only when the agent itself ends. Python and torchrun's agent print every failure, so the log has the rest. Pure.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_MESSAGE_CHARACTERS = 500
_TRACEBACK_CHARACTERS = 2000
_BURST = timedelta(seconds=5)
"""Errors of one pod this close together belong to one failure; the first of them is the reason for the others."""
_LINE = re.compile(r"(\S+Z) (.*)")
_TEE = re.compile(r"\[(?!rank\d)[A-Za-z_]+\d+\]:")
"""In front of each line where torchrun's --tee is used."""
_RANK = re.compile(r"\[rank(\d+)\]: ?")
"""In front of a traceback once the process group has been initialized."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: .*)?$")
_CUT_FILE = re.compile(r'\\n([^"\\]+)(?:\\n)?",\s*"timestamp"')
"""The end of an error file that lost its beginning: a kubelet keeps 4096 bytes of it."""
_ECHOING_CODES = (1, -15)
"""How workers end whose peers have failed: by an exception of their own, or by their agent's SIGTERM."""
_ENDED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""What torchrun's agent says of each worker that failed (torch.distributed.elastic.multiprocessing.api)."""
PEER_GONE = (
    r"DistNetworkError\b",
    "closed by peer",
    "reset by peer",
    "remote process exited",
    "Broken pipe",
    "Connection refused",
)
"""Errors of a worker whose peer is gone. The trainer library, which cannot import this, has the same patterns."""
_AGENT_ERRORS = (r"(RendezvousClosed|RendezvousConnection|ChildFailed)Error\b", r"SignalException\b")
_ECHOES = re.compile("|".join((*_AGENT_ERRORS, *PEER_GONE)))
"""Errors that follow from another failure."""


@dataclass(frozen=True)
class Words:
    """A worker's failure in its own words."""

    message: str = ""
    """The exception, in one line."""
    traceback: str = ""
    """The beginning and the end of it."""
    rank: int | None = None
    local_rank: int | None = None
    exit_code: int | None = None
    """Negative: the number of the signal that ended the worker."""
    time: datetime | None = None


def of_termination(message: str) -> Words:
    """Read a termination message: torchrun's error file, or whatever the container or Kubernetes wrote there."""
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
    """Return the first error of the newest failure in a log whose lines begin with their times, within these bounds."""
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
    """Return whose words come first, by the clocks of their machines; what others brought about comes last."""

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
    """Find the tracebacks. Lines of several workers may be mixed, but those of one rank carry its number."""
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
    """Keep the beginning, which says where it came from, and the end, which says what it was."""
    text = text.strip()
    if len(text) <= _TRACEBACK_CHARACTERS:
        return text
    half = (_TRACEBACK_CHARACTERS - 5) // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
