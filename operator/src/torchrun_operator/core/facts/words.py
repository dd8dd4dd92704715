"""The error of a failed worker: from torchrun's error file in the termination message, or from the end of the log.

torchrun writes an error file only for functions with its `record` decorator, and copies it to the termination message
only when the agent itself ends. Python and torchrun's agent print every failure, so the log has the others. Where a
worker left no exception, its last lines are its words. Pure.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from torchrun_operator.core.facts.last_words import BURST, crash, is_torchrun, last_words
from torchrun_operator.core.facts.lines import Line, is_text, plain_lines, read_lines
from torchrun_operator.core.facts.tracebacks import Raised, Weight, raised

_MESSAGE_CHARACTERS = 500
_TRACEBACK_CHARACTERS = 2000
_TEXT_CHARACTERS = 1 << 16
_STOPPING = timedelta(seconds=35)
"""torchrun gives the other workers of a node 30 s to stop before it kills them and reports the failure."""
_CHAIN = re.compile(
    r"failed to create .*unable to start container process: (?:error during container init: )?(.*?)(?:: unknown)?$",
    re.DOTALL,
)
_CUT_FILE = re.compile(r'\\n([^"\\]+)(?:\\n)?",\s*"timestamp"')
"""The end of an error file without its beginning: a kubelet keeps 4096 bytes."""
_ECHOING_CODES = (1, -15)
"""How workers end after others failed: with an exception of their own, or by the SIGTERM of their agent."""
_ENDED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""The line of torchrun's agent for the first worker that failed (torch.distributed.elastic.multiprocessing.api)."""
_CLOSING = re.compile(r"Sending process \d+ closing signal")
_FEW_LINES = 3
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
    """The exception in one line, or the last line."""
    traceback: str = ""
    """The beginning and the end of the traceback, or the last lines."""
    rank: int | None = None
    local_rank: int | None = None
    exit_code: int | None = None
    """Negative: the number of the signal that ended the worker."""
    time: datetime | None = None
    guessed: bool = False
    """No error was found: these are the last lines."""
    text: str = field(default="", compare=False, repr=False)
    """The whole traceback, or all last lines."""


def of_termination(message: str) -> Words:
    """Read a termination message: torchrun's error file, or other text of the container or of Kubernetes."""
    try:
        content = json.loads(message)["message"]
        if isinstance(content, str):
            return Words(_short(content))
        trace = str((content.get("extraInfo") or {}).get("py_callstack") or "")
        errors = raised(plain_lines(trace))
        return Words(_short(errors[-1].message if errors else str(content["message"])), _clipped(trace))
    except (ValueError, LookupError, TypeError, AttributeError):
        cut = _CUT_FILE.search(message)
        return Words(_short(cut[1])) if cut is not None else _of_text(plain_lines(_last_link(message)))


def _last_link(message: str) -> str:
    """Return why a container cannot start, without the chain of runtimes that report it to each other."""
    found = _CHAIN.match(message)
    return found[1] if found is not None else message


def _of_text(lines: Sequence[Line]) -> Words:
    """Read a few words, or the end of a log that the kubelet took for a termination message."""
    told = [line for line in lines if is_text(line.text)]
    if len(told) <= _FEW_LINES:
        return Words(_short(told[0].text)) if told else Words()
    found = _of_failure(lines, [], ended=True)
    return replace(found, guessed=False) if found is not None else Words()


def of_log(log: str, *, ended: bool = False, workers: int | None = None) -> Words | None:
    """Return the cause of the newest failure in a log whose lines begin with their times.

    ``ended``: the container has ended by an error, so its last lines are about that. Otherwise an agent continues, and
    a failure is what it reported, or an exception. ``workers``: how many the node has, if known.
    """
    lines = read_lines(log)
    first, last = _newest_report(lines)
    if last is None:
        return _of_failure(lines, [], ended=ended, workers=workers)
    after = _cause([line for line in lines[last + 1 :] if not is_torchrun(line.text)]) if ended else None
    reports = [line for line in lines[first : last + 1] if _ENDED.search(line.text)]
    return after or _of_failure(lines[first : last + 1], reports, ended=ended, workers=workers)


def earliest(found: Iterable[tuple[str, Words]]) -> tuple[str, Words] | None:
    """Return the earliest error, by the clocks of the Kubernetes nodes. Last lines and echoes come last."""

    def order(item: tuple[str, Words]) -> tuple[int, float]:
        words = item[1]
        at = words.time.timestamp() if words.time is not None else float("inf")
        kind = 3 if _echoes(words.message) else 2 if words.guessed else 0 if words.message else 1
        return kind, at

    return min(found, key=order, default=None)


def _newest_report(lines: Sequence[Line]) -> tuple[int, int | None]:
    """Return the range of lines from after the last failure but one to the agent's report of the last one."""
    last: int | None = None
    first = 0
    for index, line in enumerate(lines):
        if _ENDED.search(line.text):
            if last is not None and not all(is_torchrun(each.text) for each in lines[last:index]):
                first = last + 1
            last = index
    return first, last


def _of_failure(
    lines: Sequence[Line], reports: Sequence[Line], *, ended: bool, workers: int | None = None
) -> Words | None:
    """Return the words in the lines up to the report of a failure."""
    worker = [line for line in lines if not is_torchrun(line.text)]
    found = _cause([line for line in _before_stop(lines, reports) if not is_torchrun(line.text)]) or _cause(worker)
    ends = [_end(line) for line in reports]
    if found is None:
        found = _without_cause(worker, ends, ended=ended, workers=workers)
    if found is None or found.exit_code is not None or not ends:
        return found or next(iter(ends), None)
    return replace(found, exit_code=ends[0].exit_code, local_rank=ends[0].local_rank)


def _before_stop(lines: Sequence[Line], reports: Sequence[Line]) -> Sequence[Line]:
    """Return the lines before the agent stopped the other workers of its node, which have words of their own."""
    if not reports:
        return ()
    end = reports[0].time
    for index, line in enumerate(lines):
        if _CLOSING.search(line.text) and end is not None and line.time is not None and end - line.time <= _STOPPING:
            return lines[:index]
    return ()


def _cause(lines: Sequence[Line]) -> Words | None:
    """Return the error that caused the newest failure: of the worker that failed first, the last one."""
    burst = [error for error in _burst(raised(lines)) if not _echoes(error.message)]
    ended = {error.line.source: error for error in burst}
    first = min(ended.values(), key=lambda error: min(error.lines), default=None)
    if first is not None:
        return _of_error(first)
    found = crash(lines)
    if found is None or _echoes(found[0]):
        return None
    message, line, text = found
    return Words(_short(message), _clipped(text), rank=line.rank, time=line.time, text=_whole(text))


def _without_cause(lines: Sequence[Line], ends: Sequence[Words], *, ended: bool, workers: int | None) -> Words | None:
    """Return the words of a failure without an error of its own."""
    errors = raised(lines)
    reported = next((end for end in ends if end.exit_code not in _ECHOING_CODES), None)
    echoes = _burst(errors)
    if echoes and not ends:
        return _of_error(echoes[0])
    if reported is None and ends:
        own = next((echo for echo in echoes if _may_be_of(echo.line.rank, ends[0].local_rank, workers)), None)
        if own is not None:
            return _of_error(own)
        reported = ends[0] if echoes else None
    if not (ended or any(end.exit_code != -15 for end in ends)):
        return None
    lesser = next((error for error in reversed(errors) if error.weight is Weight.LESSER), None)
    base = reported or Words()
    if lesser is not None:
        return replace(_of_error(lesser), exit_code=base.exit_code, local_rank=base.local_rank)
    used = {index for error in errors for index in error.lines}
    found = last_words([line for index, line in enumerate(lines) if index not in used])
    if found is None:
        return reported
    message, line, text = found
    killed = base.exit_code is not None and base.exit_code < 0
    end = " ".join(message.split())[-_MESSAGE_CHARACTERS:]
    time = base.time or line.time
    said = Words("" if killed else end, _clipped(text), rank=line.rank, time=time, text=_whole(text))
    return replace(said, guessed=not killed, exit_code=base.exit_code, local_rank=base.local_rank)


def _may_be_of(rank: int | None, local_rank: int | None, workers: int | None) -> bool:
    """Whether the worker with that rank may be the one that the agent reports."""
    if rank is None or local_rank is None:
        return True
    return rank % workers == local_rank if workers else rank >= local_rank


def _burst(errors: Sequence[Raised]) -> list[Raised]:
    """Return the errors that ended workers close to the last one."""
    burst: list[Raised] = []
    for error in reversed([error for error in errors if error.weight is Weight.FULL]):
        time, next_time = error.line.time, burst[-1].line.time if burst else None
        if time is not None and next_time is not None and next_time - time > BURST:
            break
        burst.append(error)
    return burst[::-1]


def _of_error(error: Raised) -> Words:
    time, text = error.line.time, _whole(error.text)
    return Words(_short(error.message), _clipped(error.text), rank=error.line.rank, time=time, text=text)


def _echoes(message: str) -> bool:
    return _ECHOES.search(message) is not None


def _end(line: Line) -> Words:
    found = _ENDED.search(line.text)
    assert found is not None
    return Words(exit_code=int(found[1]), local_rank=int(found[2]), time=line.time)


def _short(text: str) -> str:
    return " ".join(text.split())[:_MESSAGE_CHARACTERS]


def _whole(text: str) -> str:
    return text[-_TEXT_CHARACTERS:]


def _clipped(text: str) -> str:
    """Keep the beginning, which shows the origin, and the end, which shows the exception."""
    text = text.strip()
    if len(text) <= _TRACEBACK_CHARACTERS:
        return text
    half = (_TRACEBACK_CHARACTERS - 5) // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
