"""The tested job: creation, observation and deletion."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.membership.records import MAX, MIN, Journal, Pod, Sample
from localcluster.paths import Layout
from support import chart
from support.clusters import Cluster
from support.faulting import container_processes, resident_mib
from support.kubectl import Kubectl, Object
from support.podlogs import PodLogs
from support.progress import TRAINER
from support.waiting import wait_for

NAMESPACE = "chaos-membership"
JOB = "job"
FINISH = "FINISH"
SECRET: Object = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "credentials"},
    "stringData": {"token": "of no use"},
}
"""The node pods mount it, and do not use it."""
SCRATCH = "scratch"
"""A claim that the node pods mount and do not use."""
SIDECAR = "sidecar"
_CLAIM = "volume"
_SCRIPT = Path(__file__).parent / "train.py"
_SELECTOR = f"torchrun.dev/job-name={JOB}"
_KINDS = "pods,services,configmaps,networkpolicies"
_RESTARTS = 1000
_GONE_SECONDS = 120.0
_ALIVE = frozenset({"Pending", "Starting", "Running"})


def job(image: str, spared: str, replicas: int, run: str) -> Object:
    """Return the job. Its nodes run on all Kubernetes nodes but that of the operator."""
    elsewhere = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [spared]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [elsewhere]}}}
    container: dict[str, Any] = {
        "name": TRAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["torchrun", "/workspace/train.py", f"/snapshots/{run}"],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "20m", "memory": "256Mi"}},
    }
    container["volumeMounts"] = [{"name": name, "mountPath": f"/mnt/{name}"} for name in ("credentials", "scratch")]
    sidecar = {
        "name": SIDECAR,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 5 & wait; done"],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
    }
    volumes = [
        {"name": "credentials", "secret": {"secretName": SECRET["metadata"]["name"]}},
        {"name": "scratch", "persistentVolumeClaim": {"claimName": SCRATCH}},
    ]
    return {
        "apiVersion": "torchrun.dev/v1alpha1",
        "kind": "TorchrunJob",
        "metadata": {"name": JOB},
        "spec": {
            "nnodes": f"{MIN}:{MAX}",
            "replicas": replicas,
            "maxRestarts": _RESTARTS,
            "files": [{"path": "/workspace/train.py", "content": _SCRIPT.read_text()}],
            "snapshots": {"claimName": _CLAIM},
            "template": {
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 45,
                    "affinity": affinity,
                    "volumes": volumes,
                    "initContainers": [sidecar],
                    "containers": [container],
                }
            },
        },
    }


def claim(name: str, volume: str = "") -> Object:
    """Return a claim, optionally for an existing volume."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    spec |= {"volumeName": volume} if volume else {}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


class Scene:
    """The tested job in its namespace."""

    def __init__(self, cluster: Cluster, spared: str, replicas: int) -> None:
        self.kubectl: Kubectl = cluster.kubectl.within(NAMESPACE)
        self.spared = spared
        """The Kubernetes node of the operator, which has no faults."""
        self.image = cluster.trainer_image
        self.wanted = replicas
        self.cut: set[str] = set()
        self.silent: set[str] = set()
        """The Kubernetes nodes whose kubelets are stopped."""
        self.blocking: set[str] = set()
        """The faults that keep new pods from starting, by number."""
        self.samples: list[Sample] = []
        self.pods: list[Object] = []
        """The pods of the job at the last sample."""
        self._cluster = cluster
        self._run = f"run-{time.time_ns()}"
        self._logs: list[PodLogs] = []
        self._directory = Path()
        self.volume = ""
        """The volume of the claim SCRATCH."""

    def create(self) -> None:
        """Create the namespace, the volume and the job."""
        cluster = self._cluster.kubectl
        cluster.run("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={_GONE_SECONDS:.0f}s")
        cluster.run("create", "namespace", NAMESPACE)
        self.kubectl.apply(claim(_CLAIM), claim(SCRATCH), SECRET)
        self._directory = wait_for("the volume", self._volume, 60.0) / self._run
        self.volume = wait_for("the second volume", lambda: self.volume_of(SCRATCH), 60.0)
        # The claim is deleted and created again for the same volume.
        cluster.patch("persistentvolume", self.volume, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
        self._directory.mkdir()
        self._directory.chmod(0o777)
        self.journal = Journal(self._directory)
        self.kubectl.apply(job(self._cluster.trainer_image, self.spared, self.wanted, self._run))

    def keep_logs(self, directory: Path) -> None:
        """Write the logs of the operator and of the rendezvous hosts to files from now on."""
        operator = self.kubectl.within(chart.NAMESPACE), f"app.kubernetes.io/instance={chart.RELEASE}", "operator"
        host = self.kubectl, f"{_SELECTOR},torchrun.dev/role=rendezvous", "rendezvous"
        directory.mkdir(parents=True, exist_ok=True)
        for kubectl, selector, container in (operator, host):
            path = directory / f"{container}.log"
            path.unlink(missing_ok=True)
            self._logs.append(PodLogs(kubectl, selector, container, _writer(path)))

    def volume_of(self, name: str) -> str:
        """Return the name of the volume of a claim; empty if it has none yet."""
        found = self.kubectl.get("persistentvolumeclaim", name) or {}
        volume: str = found.get("spec", {}).get("volumeName", "")
        return volume

    def _volume(self) -> Path | None:
        name = self.volume_of(_CLAIM)
        volume = self._cluster.kubectl.get("persistentvolume", name) if name else None
        path = Layout.of(os.environ).volumes / Path(volume["spec"]["hostPath"]["path"]).name if volume else None
        return path if path is not None and path.is_dir() and path.stat().st_mode & 0o002 else None

    def finish(self) -> None:
        """Ask the training to finish."""
        (self._directory / FINISH).touch()

    def fail_at_once(self, rounds: int) -> None:
        """Make the workers of that many next rounds fail right after their start."""
        for number in range(rounds):
            (self._directory / f"FAIL-{time.time_ns()}-{number}").touch()

    def look(self) -> Sample:
        """Take a sample, and read the journal."""
        at = time.time()
        found = self.kubectl.run("get", "pods,torchrunjobs,nodes", "--output=json")
        operators = self.kubectl.within(chart.NAMESPACE).run(
            "get", "pods", f"--selector=app.kubernetes.io/instance={chart.RELEASE}", "--output=json"
        )
        self.journal.follow()
        sample, self.pods = sample_of(at, _items(found), _items(operators), self.wanted, self.cut)
        processes = [container_processes(pod, "operator") for pod in _items(operators)]
        sample = replace(
            sample,
            silent=frozenset(self.silent),
            blocked=bool(self.blocking),
            operator_runs=any(processes),
            operator_mib=sum(map(resident_mib, processes)),
        )
        self.samples.append(sample)
        return sample

    def delete(self) -> list[str]:
        """Delete the job. Returns what is left after a while, including processes."""
        self.kubectl.run("delete", "torchrunjob", JOB, "--ignore-not-found", "--wait=false")
        left: list[str] = []

        def gone() -> bool:
            listed = self.kubectl.run("get", f"torchrunjobs,{_KINDS}", f"--selector={_SELECTOR}", "--output=name")
            left[:] = [*listed.split(), *self._processes()]
            return not left

        try:
            wait_for("all objects and processes to be gone", gone, _GONE_SECONDS)
        except AssertionError:
            return left
        return []

    def _processes(self) -> Iterable[str]:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # It has ended.
            if self._run in words:
                yield f"process {path.parent.name}: {words[:80]}"

    def close(self) -> None:
        """Delete the namespace."""
        for logs in self._logs:
            logs.stop()
        self.kubectl.run("delete", "pods", "--all", "--force", "--grace-period=0", "--ignore-not-found")
        self._cluster.kubectl.run("delete", "namespace", NAMESPACE, f"--timeout={_GONE_SECONDS:.0f}s")
        if self.volume:
            self._cluster.kubectl.run("delete", "persistentvolume", self.volume, "--ignore-not-found")


def _writer(path: Path) -> Callable[[str, str, str], None]:
    def write(pod: str, _: str, text: str) -> None:
        with path.open("a") as file:
            file.write(f"{time.time():.3f} {pod} {text}\n")

    return write


def _items(text: str) -> list[Object]:
    items: list[Object] = json.loads(text)["items"]
    return items


def sample_of(
    at: float, objects: Iterable[Object], operators: Iterable[Object], wanted: int, cut: Iterable[str]
) -> tuple[Sample, list[Object]]:
    """Return a sample of the API server, and the pods of the job."""
    of_kind: dict[str, list[Object]] = {}
    for each in objects:
        of_kind.setdefault(each["kind"], []).append(each)
    pods = [pod for pod in of_kind.get("Pod", []) if pod["metadata"].get("labels", {}).get("torchrun.dev/job-name")]
    known = [pod_of(pod) for pod in pods]
    status: Object = {}
    generation = 0
    for found in of_kind.get("TorchrunJob", []):
        status, generation = found.get("status") or {}, found["metadata"]["generation"]
    nodes = tuple(pod for pod in known if pod.index is not None)
    recorded = frozenset(n.get("uid", "") for n in status.get("nodes") or [] if n.get("phase") in _ALIVE)
    membership = status.get("membership") or {}
    ready = any(_condition(pod, "Ready") for pod in operators if not pod["metadata"].get("deletionTimestamp"))
    return Sample(
        time=at,
        wanted=wanted,
        nodes=nodes,
        host=next((pod for pod in known if pod.index is None), None),
        state=status.get("state", ""),
        members=membership.get("nodes", 0) if membership.get("desiredNodes") == wanted else 0,
        restarts=dict(status.get("restarts") or {}),
        recorded=recorded,
        current=ready and status.get("observedGeneration") == generation,
        cut=frozenset(cut),
        unready=frozenset(n["metadata"]["name"] for n in of_kind.get("Node", []) if not _condition(n, "Ready")),
    ), pods


def pod_of(pod: Object) -> Pod:
    """Return the relevant part of a pod."""
    index = pod["metadata"]["labels"].get("torchrun.dev/node-index")
    return Pod(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        index=None if index is None else int(index),
        machine=pod["spec"].get("nodeName", ""),
        phase=(pod.get("status") or {}).get("phase", ""),
        terminating=bool(pod["metadata"].get("deletionTimestamp")),
    )


def _condition(thing: Object, kind: str) -> bool:
    conditions = (thing.get("status") or {}).get("conditions") or []
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def has_settled(sample: Sample, journal: Journal, quiet_since: float) -> bool:
    """Whether the job has trained at its size for a while since then, and its status agrees."""
    running = [pod for pod in sample.nodes if pod.phase == "Running" and not pod.terminating]
    steps = [step for step in journal.steps[-200:] if step.master == journal.steps[-1].master]
    return (
        bool(steps)
        and sample.current
        and not (sample.cut or sample.silent or sample.blocked)
        and sample.state == "Running"
        and sample.members == sample.wanted == len(running) == len(sample.nodes)
        and sample.recorded == {pod.uid for pod in running}
        and steps[-1].world == sample.wanted
        and sample.time - steps[-1].time < _STALE_SECONDS
        and sample.time - max(steps[0].time, quiet_since) >= _SETTLE_SECONDS
    )


_STALE_SECONDS = 2.0
_SETTLE_SECONDS = 5.0
"""Longer than the operator waits for a loss that explains a failure of workers."""
