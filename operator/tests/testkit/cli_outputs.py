"""A job with outputs behind a transport of the command line, and a kubectl whose exec runs the command here."""

import copy
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli_cluster import Reply, refused, said, stream
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.kubeconfig import Access
from torchrun_transfer.task import VARIABLE

JOBS = "/apis/torchrun.dev/v1alpha1/namespaces/ml/torchrunjobs"
PODS = "/api/v1/namespaces/ml/pods"
NAME = "digits"
_KUBECTL = """#!{python}
import json, os, subprocess, sys
directory = {directory!r}
pods = json.load(open(os.path.join(directory, "pods.json")))
arguments = sys.argv[1:]
at = arguments.index("exec")
assert arguments[at + 1] == "-i", arguments
pod, container = arguments[at + 2], arguments[at + 4]
if pod not in pods:
    sys.exit(f'Error from server (NotFound): pods "{{pod}}" not found')
count = os.path.join(directory, "breaks")
breaks = int(open(count).read()) if os.path.exists(count) else 0
environment = {{**os.environ, **pods[pod][container]}}
program = arguments[arguments.index("--") + 1:]
assert program[1:] == ["/torchrun-operator/transfer.pyz", "serve"], program
serving = [sys.executable, "-m", "torchrun_transfer", "serve"]
if not breaks:
    os.execve(sys.executable, serving, environment)
open(count, "w").write(str(breaks - 1))
process = subprocess.Popen(serving, env=environment, stdout=subprocess.PIPE)
sys.stdout.buffer.write(process.stdout.read1(400)[:300])  # the connection breaks within an answer
sys.stdout.buffer.flush()
process.kill()
process.wait()
"""


@dataclass
class OutputsJob:
    """One job, and the pods that are created for it. They are ready at once."""

    outputs: list[dict[str, Any]]
    directory: Path
    """Of the kubectl and what it knows."""
    status: dict[str, Any] = field(default_factory=dict)
    after_retry: list[dict[str, Any]] = field(default_factory=list)
    """The statuses that follow a change of the job."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    forbidden: bool = False
    """The user may not create pods."""
    ready: bool = True
    lose: int = 0
    """How many pods are gone when they are looked for."""

    def client(self) -> Client:
        return Client(Access("https://api", "ml"), self, warn=lambda _: None, sleep=lambda _: None)

    def provide_kubectl(self) -> str:
        """Return a PATH with the kubectl."""
        program = self.directory / "kubectl"
        program.write_text(_KUBECTL.format(python=sys.executable, directory=str(self.directory)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return f"{self.directory}{os.pathsep}/bin"

    def break_streams(self, count: int) -> None:
        """Let the next connections break within an answer."""
        (self.directory / "breaks").write_text(str(count))

    @property
    def job(self) -> dict[str, Any]:
        trainer = {"name": "trainer", "image": "training", "command": ["torchrun", "a.py"]}
        return {
            "apiVersion": "torchrun.dev/v1alpha1",
            "kind": "TorchrunJob",
            "metadata": {"name": NAME, "namespace": "ml", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {
                "nnodes": "1:2",
                "snapshots": {"claimName": "shared", "mountPath": "/snapshots"},
                "outputs": self.outputs,
                "template": {"spec": {"containers": [trainer]}},
            },
            "status": copy.deepcopy(self.status),
        }

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        seconds: float | None = 30.0,
    ) -> Reply:
        del headers, seconds
        url = urlsplit(path)
        sent: dict[str, Any] = json.loads(body) if body is not None else {}
        watch = "watch=1" in url.query
        if url.path == f"{JOBS}/{NAME}":
            if method == "PATCH":
                self.patches.append(sent)
            return said(self.job)
        if url.path == JOBS:
            return stream(*self._later()) if watch else said(self._list([self.job]))
        if url.path == PODS and method == "POST":
            if self.forbidden:
                return refused(403, "Forbidden", 'pods is forbidden: User "me" cannot create')
            return self._create(sent)
        if url.path == PODS:
            return stream() if watch else said(self._list([*self.pods.values()]))
        name = url.path.rpartition("/")[2]
        if method == "GET" and self.lose:
            self.lose -= 1
            self.pods.pop(name)
        found = self.pods.pop(name, None) if method == "DELETE" else self.pods.get(name)
        self._tell()
        return said(found) if found else refused(404, "NotFound", f'pods "{name}" not found')

    def renew(self) -> bool:
        return False

    def _later(self) -> Iterator[dict[str, Any]]:
        for number, status in enumerate(self.after_retry):
            self.status = status
            job = self.job
            job["metadata"]["resourceVersion"] = str(number + 2)
            yield {"type": "MODIFIED", "object": job}

    def _list(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return {"items": items, "metadata": {"resourceVersion": "1"}}

    def _create(self, manifest: dict[str, Any]) -> Reply:
        name = f"{manifest['metadata']['generateName']}{len(self.created)}"
        self.created.append(manifest)
        metadata = {**manifest["metadata"], "name": name, "uid": name, "resourceVersion": "1"}
        waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        failed = {"phase": "Failed", "containerStatuses": [waiting]}
        self.pods[name] = {**manifest, "metadata": metadata, "status": status if self.ready else failed}
        self._tell()
        return said(self.pods[name], 201)

    def _tell(self) -> None:
        """Let the kubectl know the pods, and the environment of their containers."""
        known = {
            name: {each["name"]: self._environment(each) for each in pod["spec"]["containers"]}
            for name, pod in self.pods.items()
        }
        (self.directory / "pods.json").write_text(json.dumps(known))

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        return {each["name"]: each["value"].replace("$$", "$") for each in container["env"] if each["name"] == VARIABLE}
