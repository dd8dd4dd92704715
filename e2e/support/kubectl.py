"""kubectl as a function: objects in, objects out, and streams of lines."""

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_JSON_LINES = 'jsonpath={@}{"\\n"}'


class KubectlError(RuntimeError):
    """kubectl failed. The message is its output."""


@dataclass(frozen=True)
class Kubectl:
    """One cluster, and optionally one of its namespaces."""

    program: str
    kubeconfig: Path
    namespace: str = ""

    def within(self, namespace: str) -> "Kubectl":
        """Return a copy for a namespace."""
        return replace(self, namespace=namespace)

    def argv(self, *arguments: str) -> list[str]:
        """Return the whole command line."""
        scope = ["--namespace", self.namespace] if self.namespace else []
        return [self.program, "--kubeconfig", str(self.kubeconfig), *scope, *arguments]

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command and return its output. Raises KubectlError."""
        done = subprocess.run(self.argv(*arguments), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object; None if it does not exist."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output=json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind."""
        items: list[Object] = json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))["items"]
        return items

    def apply(self, *objects: Object) -> None:
        """Apply objects. Raises KubectlError with the message of the API server."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.run("apply", "--filename=-", stdin=json.dumps(document))

    def patch(self, kind: str, name: str, change: Object) -> None:
        """Apply a merge patch to an object."""
        self.run("patch", kind, name, "--type=merge", f"--patch={json.dumps(change)}")

    def watch(self, kind: str, selector: str, on_object: Callable[[Object], None]) -> "Stream":
        """Call back with every existing and every changed object, from the thread of the stream."""
        argv = self.argv("get", kind, f"--selector={selector}", "--watch", f"--output={_JSON_LINES}")
        return Stream(argv, lambda line: on_object(json.loads(line)))

    def watch_one(self, kind: str, name: str, on_object: Callable[[Object], None]) -> "Stream":
        """Call back with an existing object and with every change of it, from the thread of the stream."""
        argv = self.argv("get", kind, name, "--watch", f"--output={_JSON_LINES}")
        return Stream(argv, lambda line: on_object(json.loads(line)))

    def follow(self, pod: str, container: str, on_line: Callable[[str], None]) -> "Stream":
        """Call back with every line of the log of a container, from the first on."""
        return Stream(self.argv("logs", "--follow", pod, f"--container={container}"), on_line)


class Stream:
    """A running command. A thread calls back with each line of its output."""

    def __init__(self, argv: list[str], on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._on_line(line.rstrip("\n"))

    def stop(self) -> None:
        """End the command."""
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=5)
        assert self._process.stdout is not None
        self._process.stdout.close()
