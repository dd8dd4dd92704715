"""Runs the program that renders a template, with limits: a template can neither hang the command nor eat the memory."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.reading import nearest
from torchrun_cli.template.values import DEFAULTS

_PROGRAM: Final = Path(__file__).with_name("program.py")
_TOO_LONG: Final = "the template takes too long; look for a very large number or text"


@dataclass(frozen=True)
class Limits:
    """What a template may use."""

    seconds: float = 5.0
    bytes: int = 2**30
    """Of memory."""
    characters: int = 8 * 2**20
    """Of the rendered text."""


@dataclass(frozen=True)
class Rendered:
    """A rendered template."""

    text: str
    lines: tuple[int, ...]
    """The line in the manifest that each line of the text is from."""


def used_names(text: str, origin: str) -> list[str]:
    """Return the names that a template uses and does not set itself. Raises CliError if it is no template."""
    used: list[str] = _ask(text, origin, {}, Limits())["used"]
    return used


def render(text: str, origin: str, values: Mapping[str, Any], limits: Limits = Limits()) -> Rendered:
    """Render a template. Raises CliError that names the line and what is wrong there."""
    answer = _ask(text, origin, {"values": dict(values), **vars(limits)}, limits)
    return Rendered(answer["text"], tuple(answer["lines"]))


def _ask(text: str, origin: str, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    try:
        done = subprocess.run(
            # -P: no module from the directory of the program or of the user.
            [sys.executable, "-P", str(_PROGRAM)],
            input=json.dumps({"text": text, **request}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=limits.seconds + 30,
        )
    except subprocess.TimeoutExpired:
        raise CliError(f"{origin}: {_TOO_LONG}", Exit.USAGE) from None
    if done.returncode < 0:
        raise CliError(f"{origin}: {_TOO_LONG}", Exit.USAGE)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CliError(f"{origin}: the template cannot be rendered: {last}", Exit.USAGE)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        place = f"{origin}:{answer['line']}" if answer["line"] else origin
        raise CliError(f"{place}: {_explained(answer, text, request.get('values', {}))}", Exit.USAGE)
    return answer


def _explained(answer: dict[str, Any], text: str, values: Mapping[str, Any]) -> str:
    message, name = answer["error"], answer["name"]
    if name:
        hint = nearest(name, values) or (
            f"; set it with --set {name}=VALUE, or write its value below {DEFAULTS}; if this is the text of a script, "
            "write {% raw %} above and {% endraw %} below it, or use localPath"
        )
        return f"{name!r} is undefined{hint}"
    line = text.splitlines()[answer["line"] - 1] if answer["line"] and answer["line"] <= text.count("\n") + 1 else ""
    if "{{" in line and ":" in line.partition("{{")[2].partition("}}")[0]:
        message += "; tokens of OSMO such as {{host:NAME}} need 'kubectl torchrun convert'"
    return str(message).removesuffix(".")
