"""Log lines: one JSON object each, with the job that the code works on."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

_job: ContextVar[dict[str, str] | None] = ContextVar("job", default=None)

# The attributes of every record, and those that kopf adds for its own handlers. All others come from `extra`.
_PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_KOPF = frozenset({"k8s_ref", "k8s_skip", "settings"})
_MAX_TEXT = 32_768


@contextmanager
def job_context(namespace: str, name: str, uid: str = "") -> Iterator[None]:
    """Add the job's key to every line that the block logs, or tasks that the block starts."""
    token = _job.set(_key(namespace, name, uid))
    try:
        yield
    finally:
        _job.reset(token)


def configure_logging(level: str, style: Literal["json", "text"], stream: TextIO | None = None) -> None:
    """Send every logger's lines of at least `level` to `stream` (standard error if None), replacing other handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # kopf logs each event that it forwards.
    chatty = logging.NOTSET if root.level <= logging.DEBUG else max(root.level, logging.WARNING)
    for name in ("kopf.objects", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(chatty)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON. A value that JSON does not support becomes text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line feed."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= _references(record)
        if error := _exception(self, record):
            line["exception"] = error
        # The formatter's own fields win: an extra cannot replace the level or the job.
        line |= {name: value for name, value in _extras(record).items() if name not in line}
        return json.dumps(line, default=_text, ensure_ascii=False, skipkeys=True)


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people: time, level, logger, [job], message, extras; then the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line feed."""
        prefix = ""
        for ref in _references(record).values():
            prefix = f"[{'/'.join(ref[part] for part in ('kind', 'namespace', 'name') if part in ref)}] "
        extras = "".join(f" {name}={_text(value)}" for name, value in _extras(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name} {prefix}{_message(record)}{extras}"
        error = _exception(self, record)
        return f"{line}\n{error}" if error else line


def _key(namespace: str, name: str, uid: str) -> dict[str, str]:
    return {"namespace": namespace, "name": name, "uid": uid} if uid else {"namespace": namespace, "name": name}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return _cut(record.getMessage())
    except Exception:  # a wrong format string must neither lose the line nor end the caller
        return _cut(f"{record.msg} {record.args}")


def _references(record: logging.LogRecord) -> dict[str, dict[str, str]]:
    """Return `job` and, from kopf's own records about other objects, `object`."""
    found: dict[str, dict[str, str]] = {}
    ref = getattr(record, "k8s_ref", None)
    if isinstance(ref, dict):
        parts = {part: str(ref[part]) for part in ("kind", "namespace", "name", "uid") if ref.get(part)}
        if parts.get("kind") == "TorchrunJob":
            del parts["kind"]
            found["job"] = parts
        elif parts:
            found["object"] = parts
    if (job := _job.get()) is not None:
        found["job"] = job
    return found


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN and name not in _KOPF}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return _cut("\n".join(parts))


def _text(value: object) -> str:
    try:
        return _cut(str(value))
    except Exception:  # a faulty __str__ must not lose the line
        return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}... ({len(text)} characters)"
