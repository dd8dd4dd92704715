"""A job with pods whose logs grow, behind a transport of the command line: the tests write lines and break streams."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Queue
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cli_cluster import Reply, refused, said
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.kubeconfig import Access
from torchrun_cli.cluster.transport import Answer, UnreachableError

END = None


@dataclass
class Stream(Reply):
    """An answer that goes on until the test ends or breaks it."""

    queue: Queue[bytes | Exception | None] = field(default_factory=Queue)
    taken: int = 0

    def chunks(self) -> Iterator[bytes]:
        yield from self.pieces
        while (found := self.queue.get()) is not END:
            if isinstance(found, Exception):
                raise found
            self.taken += 1
            yield found


class LiveJob:
    """One job. Each change goes to the watches; each line goes to the streams of its pod."""

    def __init__(self, name: str = "digits") -> None:
        self.name = name
        self.requests: list[str] = []
        self.job: dict[str, Any] = _object(name, "job")
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        """The lines of each pod, each with its time, by uid."""
        self.refusals: dict[str, Reply | Exception] = {}
        """What the API server says instead of the log of a pod, once, by its name."""
        self._watches: dict[str, list[Stream]] = {"pods": [], "torchrunjobs": []}
        self._streams: dict[str, list[Stream]] = {}
        self._version = 10
        self._lock = threading.RLock()

    def client(self) -> Client:
        return Client(Access("https://api", "ml"), self, warn=lambda _: None, sleep=lambda _: None)

    def set_pod(self, index: int, uid: str, state: str = "running", *, name: str = "", **status: Any) -> None:
        """Create or change the pod of a node. `state` is that of its trainer container."""
        with self._lock:
            pod = _object(name or f"{self.name}-{index}", uid)
            pod["metadata"]["labels"] = {"torchrun.dev/node-index": str(index)}
            pod["status"] = {"containerStatuses": [{"name": "trainer", "state": {state: {}}}], **status}
            self.pods[uid] = pod
            self.logs.setdefault(uid, [])
            self._tell("pods", "MODIFIED", pod)

    def delete_pod(self, uid: str) -> None:
        with self._lock:
            self._tell("pods", "DELETED", self.pods.pop(uid))
            self.end_log(uid)

    def set_job(self, **status: Any) -> None:
        with self._lock:
            self.job["status"] = status
            self._tell("torchrunjobs", "MODIFIED", self.job)

    def end_job(self) -> None:
        self.set_job(state="Complete", conditions=[{"type": "Complete", "status": "True"}])

    def write(self, uid: str, *lines: str) -> None:
        """Add lines, each with its time, to the log of a pod."""
        with self._lock:
            self.logs[uid] += lines
            for stream in self._streams.get(uid, ()):
                stream.queue.put("".join(f"{line}\n" for line in lines).encode())

    def end_log(self, uid: str, error: Exception | None = END) -> None:
        """End the streams of a pod, or break them with an error."""
        with self._lock:
            for stream in self._streams.pop(uid, ()):
                stream.queue.put(error)

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        seconds: float | None = 30.0,
    ) -> Answer:
        del headers, body, seconds
        with self._lock:
            assert method == "GET"
            self.requests.append(path)
            parts = urlsplit(path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            words = parts.path.split("/")
            if words[-1] == "log":
                return self._log(words[-2], query)
            if words[-2] == "pods":
                found = next((pod for pod in self.pods.values() if pod["metadata"]["name"] == words[-1]), None)
                return said(found) if found is not None else refused(404, "NotFound", f'pods "{words[-1]}" not found')
            if "pods" in words:
                return self._collection("pods", list(self.pods.values()), query)
            if words[-1] == self.name:
                return said(self.job)
            return self._collection("torchrunjobs", [self.job], query)

    def renew(self) -> bool:
        return False

    def _collection(self, plural: str, items: list[dict[str, Any]], query: dict[str, str]) -> Reply:
        if "watch" not in query:
            return said({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        stream = Stream()
        self._watches[plural].append(stream)
        for each in items:  # what has changed between the list and the watch
            if int(each["metadata"]["resourceVersion"]) > int(query["resourceVersion"]):
                stream.queue.put(_event("MODIFIED", each))
        return stream

    def _log(self, name: str, query: dict[str, str]) -> Reply:
        uid = next((uid for uid, pod in self.pods.items() if pod["metadata"]["name"] == name), None)
        if (refusal := self.refusals.pop(name, None)) is not None:
            if isinstance(refusal, Exception):
                raise refusal
            return refusal
        if uid is None:
            return refused(404, "NotFound", f'pods "{name}" not found')
        since = query.get("sinceTime", "").removesuffix("Z")
        lines = [line for line in self.logs[uid] if line >= since]
        if "tailLines" in query:
            lines = lines[len(lines) - int(query["tailLines"]) :] if int(query["tailLines"]) else []
        pieces = ["".join(f"{line}\n" for line in lines).encode()] if lines else []
        running = "running" in self.pods[uid]["status"]["containerStatuses"][0]["state"]
        if "follow" not in query or not running:
            return Reply(200, pieces)
        stream = Stream(200, pieces)
        self._streams.setdefault(uid, []).append(stream)
        return stream

    def _tell(self, plural: str, kind: str, found: dict[str, Any]) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        for stream in self._watches[plural]:
            stream.queue.put(_event(kind, found))


def _event(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def _object(name: str, uid: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ml", "uid": uid, "resourceVersion": "10"}, "status": {}}


def broken() -> UnreachableError:
    return UnreachableError("the connection to the API server broke: reset")
