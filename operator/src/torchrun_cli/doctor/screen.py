"""The results of the checks on a screen, and as an object."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from torchrun_cli.doctor.findings import Finding, Level
from torchrun_cli.show.style import PLAIN, Paint, cleaned
from torchrun_cli.show.table import wrapped

_TITLES: Final = ("RESULT", "CHECK", "MESSAGE")
_NARROWEST: Final = 20


def finding_lines(found: Sequence[Finding], *, paint: Paint = PLAIN, width: int | None = None) -> list[str]:
    """Return a line for each check, below it what to do, and at the end how many checks went wrong."""
    columns = [max(len(title), *(len(text) for text in texts)) + 3 for title, texts in _columns(found)]
    before = sum(columns)
    room = max(_NARROWEST, width - before) if width is not None else None
    lines = [paint.bold(_TITLES[0].ljust(columns[0]) + _TITLES[1].ljust(columns[1]) + _TITLES[2])]
    for each in map(_clean, found):
        first, *more = [line for text in _texts(each) for line in wrapped(text, room)]
        level = _painted(each.level, paint) + " " * (columns[0] - len(each.level))
        lines.append(level + each.check.ljust(columns[1]) + first)
        lines += [" " * before + line for line in more]
    return [*lines, "", summary(found)]


def _columns(found: Sequence[Finding]) -> list[tuple[str, list[str]]]:
    return [(_TITLES[0], [str(each.level) for each in found]), (_TITLES[1], [each.check for each in found])]


def _clean(found: Finding) -> Finding:
    """Messages may come from any program of the cluster: they have one line, and move no cursor."""
    words = [" ".join(str(cleaned(text)).split()) for text in (found.message, found.advice, *found.details)]
    return found._replace(message=words[0], advice=words[1], details=tuple(words[2:]))


def _texts(found: Finding) -> list[str]:
    return [found.message, *(f"- {each}" for each in found.details), *([f"-> {found.advice}"] if found.advice else [])]


def _painted(level: Level, paint: Paint) -> str:
    match level:
        case Level.OK:
            return paint.good(level)
        case Level.WARNING:
            return paint.warn(level)
        case Level.FAILED:
            return paint.bad(level)
    return paint.dim(level)


def summary(found: Sequence[Finding]) -> str:
    """Return how the checks went, in one line."""
    counts = Counter(each.level for each in found)
    return ", ".join(f"{counts[level]} {level}" for level in reversed(Level) if counts[level])


def document(found: Sequence[Finding], job: str | None, namespace: str | None) -> dict[str, Any]:
    """Return the results as an object for programs."""
    checks = [
        {
            "check": each.check,
            "result": str(each.level),
            "message": each.message,
            **({"advice": each.advice} if each.advice else {}),
            **({"details": [*each.details]} if each.details else {}),
        }
        for each in map(_clean, found)
    ]
    about = {"job": job, "namespace": namespace} if job is not None else {}
    return {**about, "checks": checks}


def printed(whole: dict[str, Any], output: str) -> str:
    """Return that object as `json` or `yaml`."""
    if output == "json":
        return json.dumps(whole, indent=4, ensure_ascii=False) + "\n"
    import yaml  # noqa: PLC0415 it is slow to import

    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)
    return text
