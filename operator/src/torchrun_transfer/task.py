"""What one container transfers, as the operator writes it into an environment variable. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "TORCHRUN_TRANSFER"
"""The environment variable with the task, as JSON."""


@dataclass(frozen=True)
class Task:
    """One input or one output."""

    url: str
    """Where the files come from, or go to."""
    path: str
    """The directory or file in the container."""
    include: tuple[str, ...] = ()
    """Patterns of the files to send; empty: all."""
    exclude: tuple[str, ...] = ()
    every_seconds: float | None = None
    """Send again and again while the job trains, with this pause. None: once, and everything."""
    patience_seconds: float = 900.0
    """Give up after this time without progress."""
    job: Mapping[str, str] | None = None
    """Namespace, name and uid of the job, for the manifest."""
    pod: str = ""


def task_of(text: str) -> Task:
    """Read a task. Raises ValueError that names the variable."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return Task(
            url=str(raw["url"]),
            path=str(raw["path"]),
            include=tuple(map(str, raw.get("include", ()))),
            exclude=tuple(map(str, raw.get("exclude", ()))),
            every_seconds=float(raw["everySeconds"]) if "everySeconds" in raw else None,
            patience_seconds=float(raw.get("patienceSeconds", Task.patience_seconds)),
            job={key: str(value) for key, value in raw.get("job", {}).items()},
            pod=str(raw.get("pod", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{VARIABLE} is no task of this program: {error!r}") from error
