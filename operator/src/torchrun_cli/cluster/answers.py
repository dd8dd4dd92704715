"""What the API server says when it refuses a request, as an error of the program."""

import json
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_operator.api.names import PLURAL

_NO_RESOURCE: Final = ("could not find the requested resource", "404 page not found")
"""The API server says the second of these where no resource of the group is installed."""
_REFUSED: Final = frozenset({400, 403, 405, 409, 413, 415, 422})


class ApiError(CliError):
    """The API server refused a request. `status` is the HTTP status, `reason` the word for programs."""

    def __init__(self, message: str, exit_code: int, status: int, reason: str = "") -> None:
        super().__init__(message, exit_code)
        self.status = status
        self.reason = reason


def api_error(status: int, body: bytes, path: str) -> ApiError:
    """Return the error for an answer with a status of 400 or more to a request with this path."""
    said = _status(body)
    message = str(said.get("message") or "").strip() or _plain(body) or f"HTTP status {status}"
    return ApiError(_explained(status, message, path), _exit_code(status), status, str(said.get("reason") or ""))


def _status(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _plain(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    return "" if text.startswith("<") else text[:500]


def _exit_code(status: int) -> int:
    if status == 404:
        return Exit.NOT_FOUND
    return Exit.REFUSED if status in _REFUSED else Exit.FAILED


def _explained(status: int, message: str, path: str) -> str:
    if status == 401:
        return f"the API server does not know you ({message}): log in to the cluster again"
    if status == 404 and f"/{PLURAL}" in path and any(words in message for words in _NO_RESOURCE):
        return f"{message}: the cluster has no {PLURAL}, so install torchrun-operator, or choose another --context"
    return message
