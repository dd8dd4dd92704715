"""Samples of the gallery on a cluster: submitted with small numbers, waited for, and what they left behind."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from support import lines
from support.cli import torchrun
from support.clusters import Cluster
from support.counting import status as status_of
from support.kubectl import Kubectl, Object
from support.waiting import wait_for

CLAIM: Final = "results"
NO_RESTARTS: Final = {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}
_SECONDS: Final = 240.0
_READ: Final = """
import hashlib, json, pathlib
found = {}
for manifest in pathlib.Path("/results").glob("*/_torchrun_manifest.json"):
    listed = json.loads(manifest.read_text())
    files = {file["path"]: manifest.parent / file["path"] for file in listed["files"]}
    sums = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()}
    report = manifest.parent / "report.json"
    found[manifest.parent.name] = {
        "job": listed["job"]["name"],
        "files": sorted(files),
        "wrong": [file["path"] for file in listed["files"] if file["sha256"] != sums[file["path"]]],
        "report": json.loads(report.read_text()) if report.exists() else None,
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Try:
    """A sample, and the values that it is submitted with."""

    sample: str
    values: tuple[str, ...] = ()
    name: str = ""
    """The name of the job; the name of the sample if empty."""

    @property
    def job(self) -> str:
        """The name of the job."""
        return self.name or self.sample


@dataclass(frozen=True)
class Ended:
    """What a job left behind."""

    seconds: float
    """From the first submit to its end."""
    status: Object
    logs: dict[str, str]
    """Of its nodes, by pod."""

    @property
    def accuracy(self) -> float:
        """What the script says in the end."""
        return float(self.said("accuracy=(.*)"))

    def said(self, pattern: str) -> str:
        """Return the one match of the pattern, at the start of a line, in all logs."""
        found = re.findall(f"^{pattern}$", "\n".join(self.logs.values()), re.MULTILINE)
        assert len(found) == 1, f"{pattern}: {found} in {self.logs}"
        return str(found[0])


def submit(cluster: Cluster, kubectl: Kubectl, tries: Sequence[Try]) -> float:
    """Submit all of them with the image of the cluster, and return the time of the first."""
    began = time.monotonic()
    for one in tries:
        values = [f"image={cluster.trainer_image}", "cpu=50m", *one.values]
        name = ["--name", one.name] if one.name else []
        said = torchrun(kubectl, "submit", f"sample:{one.sample}", *name, "--set", *values)
        assert said == f"torchrunjob.torchrun.dev/{one.job} created\n"
    return began


def ended(kubectl: Kubectl, job: str, began: float, *, state: str = "Complete") -> Ended:
    """Wait until the job has that state, and return what it left behind."""

    def probe() -> Object | None:
        found = status_of(kubectl, job)
        return found if found.get("state") in ("Complete", "Failed") else None

    status = wait_for(f"{job}: {state}", probe, _SECONDS, seen=lambda: status_of(kubectl, job))
    seconds = time.monotonic() - began
    assert status["state"] == state, status
    pods = kubectl.list("pods", f"torchrun.dev/job-name={job},torchrun.dev/role=node")
    names = [pod["metadata"]["name"] for pod in pods]
    logs = {name: lines.whole(kubectl.run("logs", name, "-c", "trainer")) for name in names}
    return Ended(seconds, status, logs)


def tell(record_property: Callable[[str, object], None], found: dict[str, Ended]) -> None:
    """Print how long each job took, all of them at the same time, and what it learned."""
    for job, end in found.items():
        accuracy = re.search("accuracy=(.*)", "\n".join(end.logs.values()))
        learned = f", accuracy {accuracy[1]}" if accuracy else ""
        record_property("said", f"sample {job}: {end.seconds:.0f} s from the submit to {end.status['state']}{learned}")


def claim() -> Object:
    """Return a claim for results, which all jobs of a namespace can write to."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}


def results(cluster: Cluster, kubectl: Kubectl, jobs: Sequence[str]) -> dict[str, Any]:
    """Return what is below each directory of the claim once the jobs have uploaded: files, and wrong checksums."""
    for job in jobs:
        torchrun(kubectl, "wait", job, "--for=condition=OutputsUploaded", "--timeout=2m")
    container = {
        "name": "read",
        "image": cluster.trainer_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _READ],
        "volumeMounts": [{"name": "results", "mountPath": "/results"}],
    }
    volume = {"name": "results", "persistentVolumeClaim": {"claimName": CLAIM}}
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": spec})

    def succeeded() -> bool:
        pod = kubectl.get("pod", "reader")
        assert pod is not None
        assert pod["status"].get("phase") != "Failed", kubectl.run("logs", "reader")
        return bool(pod["status"].get("phase") == "Succeeded")

    wait_for("the results to be read", succeeded, _SECONDS)
    found: dict[str, Any] = json.loads(kubectl.run("logs", "reader"))
    return found
