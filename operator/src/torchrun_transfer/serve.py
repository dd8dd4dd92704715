"""Serves the files of a store over two streams, so that a command in a pod can give them to someone outside.

A request is a line of JSON: `{"do": "get", "path": …}` or `{"do": "read", "path": …, "start": …, "end": …}`. The
answer is a line of JSON: `{"size": …}` and then that many bytes, null if there is no such file; or `{"error": …,
"fatal": …}`.
"""

import json
from collections.abc import Callable
from typing import IO, Any

from torchrun_transfer.stores.base import Source
from torchrun_transfer.troubles import TransferError, is_fatal, words

_LONGEST_LINE = 1 << 20


class ServedError(TransferError):
    """What went wrong at the other end."""

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Lazy:
    """A store that is located at the first request, so that a failure is an answer."""

    def __init__(self, locate: Callable[[], Source]) -> None:
        self._locate = locate
        self._store: Source | None = None

    def get(self, path: str) -> bytes | None:
        """See Source.get."""
        return self._located().get(path)

    def read(self, path: str, start: int, end: int) -> bytes:
        """See Source.read."""
        return self._located().read(path, start, end)

    def _located(self) -> Source:
        if self._store is None:
            self._store = self._locate()
        return self._store


def serve(store: Source, url: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    while line := requests.readline(_LONGEST_LINE):
        content: bytes | None = None
        try:
            content = _carried_out(store, json.loads(line))
            head: dict[str, Any] = {"size": None if content is None else len(content)}
        except Exception as error:  # each is told
            head = {"error": words(error, url), "fatal": is_fatal(error)}
        answers.write(json.dumps(head).encode() + b"\n")
        answers.write(content or b"")
        answers.flush()


def _carried_out(store: Source, request: dict[str, Any]) -> bytes | None:
    path = str(request["path"])
    if request["do"] == "get":
        return store.get(path)
    return store.read(path, int(request["start"]), int(request["end"]))


def asked(requests: IO[bytes], answers: IO[bytes], **request: object) -> bytes | None:
    """Send a request, and return the content. None: there is no such file.

    Raises ServedError, or OSError if the other end is gone or does not answer as this program does.
    """
    requests.write(json.dumps(request).encode() + b"\n")
    requests.flush()
    line = answers.readline(_LONGEST_LINE)
    try:
        head = json.loads(line)
        error, size = head.get("error"), head.get("size")
    except (ValueError, AttributeError):
        said = line.decode(errors="replace").strip()
        raise OSError(f"the pod does not answer as expected: {said[:200] or 'it ended'}") from None
    if error is not None:
        raise ServedError(str(error), fatal=bool(head.get("fatal")))
    if size is None:
        return None
    content = answers.read(int(size))
    if len(content) < int(size):
        raise OSError("the connection to the pod broke")
    return content
