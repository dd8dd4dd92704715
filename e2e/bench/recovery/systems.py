"""The compared systems: this operator, PyTorchJob of Kubeflow, and pods by hand.

All use the same pods: image, script, environment, volume, Kubernetes nodes. They differ in what creates these pods, and
in the settings of torchrun.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.recovery import pytorchjobs
from support.kubectl import Kubectl, Object
from support.progress import TRAINER

CLAIM = "snapshots"
MIN, MAX = 2, 3
JOB_LABEL = "torchrun-bench/job"
_SCRIPT = (Path(__file__).parent / "train.py").read_text()
_SCRIPT_PATH = "/workspace/train.py"
_CONFIG_MAP = "script"
_RESTARTS = 1_000_000
_HOSTNAME = "kubernetes.io/hostname"


class System(Protocol):
    """A compared system. Every method takes the name of the job."""

    name: str
    title: str
    container: str
    """Name of the container that trains."""
    cannot: Mapping[str, str]
    """Faults that are not measured, with the reason. An empty reason omits the line."""
    shrinks: Mapping[str, str]
    """Faults after which the job never returns to its size, with the reason."""

    def installed(self) -> AbstractContextManager[None]:
        """Install the system while the block runs."""

    def create(self, job: str, nodes: int) -> None:
        """Create a job with that many nodes, MIN to MAX."""

    def delete(self, job: str) -> None:
        """Delete the job."""

    def scale(self, job: str, nodes: int) -> None:
        """Scale to that many nodes. Raises NotImplementedError if that is impossible."""

    def store_home(self, job: str) -> tuple[str, str]:
        """Return the pod and the container of torchrun's store."""

    def restarts(self, job: str) -> dict[str, int] | None:
        """Return the counted restarts by cause; None if there are none yet."""

    def spares(self, job: str) -> frozenset[str]:
        """Return the pods that are spares."""


@dataclass(frozen=True)
class Pods:
    """The common part of the pods of all systems."""

    image: str
    spared: str
    """The Kubernetes node of the operator, on which no training pod may run."""

    def template(self, job: str, container: str, command: list[str]) -> Object:
        """Return a pod template."""
        labels = {JOB_LABEL: job}
        apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": _HOSTNAME}
        elsewhere = {"matchExpressions": [{"key": _HOSTNAME, "operator": "NotIn", "values": [self.spared]}]}
        return {
            "metadata": {"labels": labels},
            "spec": {
                "terminationGracePeriodSeconds": 45,
                "automountServiceAccountToken": False,
                "affinity": {
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]},
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [elsewhere]}
                    },
                },
                "containers": [
                    {
                        "name": container,
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [*command, _SCRIPT_PATH, f"/snapshots/{job}"],
                        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
                    }
                ],
            },
        }

    def wired_by_hand(self, job: str, container: str, command: list[str]) -> Object:
        """Return a pod template with the mounts and settings that this operator adds on its own."""
        template = self.template(job, container, command)
        spec = template["spec"]
        spec["volumes"] = [
            {"name": "script", "configMap": {"name": _CONFIG_MAP}},
            {"name": "snapshots", "persistentVolumeClaim": {"claimName": CLAIM}},
        ]
        spec["containers"][0]["volumeMounts"] = [
            {"name": "script", "mountPath": "/workspace"},
            {"name": "snapshots", "mountPath": "/snapshots"},
        ]
        # The trainer library recommends this without an operator: otherwise recovery is worse.
        spec["containers"][0]["env"].append({"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"})
        return template


def shared_objects() -> list[Object]:
    """Return the shared objects of the namespace: the script, and the volume for snapshots."""
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _CONFIG_MAP}, "data": {"train.py": _SCRIPT}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim},
    ]


@dataclass
class Ours:
    """Jobs of this operator."""

    kubectl: Kubectl
    pods: Pods
    name: str = "torchrunjob"
    title: str = "TorchrunJob"
    container: str = TRAINER

    def __post_init__(self) -> None:
        self.cannot: Mapping[str, str] = {}
        self.shrinks: Mapping[str, str] = {}

    def installed(self) -> AbstractContextManager[None]:
        """Do nothing: the operator is already installed."""
        return nullcontext()

    def create(self, job: str, nodes: int) -> None:
        """Create a TorchrunJob."""
        spec: dict[str, Any] = {
            "nnodes": f"{MIN}:{MAX}",
            "replicas": nodes,
            "files": [{"path": _SCRIPT_PATH, "content": _SCRIPT}],
            "snapshots": {"claimName": CLAIM},
            "elasticity": self.elasticity(),
            "template": self.pods.template(job, self.container, ["torchrun"]),
        }
        kind = {"apiVersion": "torchrun.dev/v1alpha1", "kind": "TorchrunJob"}
        self.kubectl.apply({**kind, "metadata": {"name": job}, "spec": spec})

    def elasticity(self) -> dict[str, Any]:
        """Return spec.elasticity: the default."""
        return {}

    def delete(self, job: str) -> None:
        """Delete the TorchrunJob."""
        self.kubectl.run("delete", "torchrunjob", job, "--ignore-not-found")

    def scale(self, job: str, nodes: int) -> None:
        """Scale the job as a user does."""
        self.kubectl.run("scale", "torchrunjob", job, f"--replicas={nodes}")

    def store_home(self, job: str) -> tuple[str, str]:
        """Return the rendezvous pod."""
        return f"{job}-rdzv", "rendezvous"

    def restarts(self, job: str) -> dict[str, int] | None:
        """Return status.restarts of a job that runs at its size."""
        status = (self.kubectl.get("torchrunjob", job) or {}).get("status") or {}
        membership = status.get("membership") or {}
        settled = status.get("state") == "Running" and membership.get("nodes") == membership.get("desiredNodes")
        return dict(status["restarts"]) if settled and "restarts" in status else None

    def spares(self, job: str) -> frozenset[str]:
        """Return none."""
        return frozenset()


_ONCE = ("terminate", "drain", "scale-up", "scale-down", "stop-machine", "partition", "kill-worker-operator-away")
"""Faults that are measured with the defaults alone."""


@dataclass
class Spare(Ours):
    """Jobs of this operator with a spare."""

    name: str = "torchrunjob-spare"
    title: str = "TorchrunJob, one spare"

    def __post_init__(self) -> None:
        self.cannot = dict.fromkeys(("start", *_ONCE, "kill-store"), "")
        self.shrinks = {}

    def elasticity(self) -> dict[str, Any]:
        """Return spec.elasticity."""
        return {"spares": 1}

    def restarts(self, job: str) -> dict[str, int] | None:
        """Return status.restarts once the spare is ready."""
        membership = ((self.kubectl.get("torchrunjob", job) or {}).get("status") or {}).get("membership") or {}
        return super().restarts(job) if membership.get("spares") else None

    def spares(self, job: str) -> frozenset[str]:
        """Return the spares in the status of the job."""
        nodes = ((self.kubectl.get("torchrunjob", job) or {}).get("status") or {}).get("nodes") or []
        return frozenset(node["pod"] for node in nodes if node.get("spare"))


@dataclass
class Cold(Ours):
    """Jobs of this operator without warm starts."""

    name: str = "torchrunjob-cold"
    title: str = "TorchrunJob, cold"

    def __post_init__(self) -> None:
        self.cannot = dict.fromkeys(("kill-rank-0", *_ONCE), "")
        self.shrinks = {}

    def elasticity(self) -> dict[str, Any]:
        """Return spec.elasticity."""
        return {"warmStart": False}


@dataclass
class PyTorchJob:
    """Elastic PyTorchJobs of Kubeflow's training-operator."""

    kubectl: Kubectl
    pods: Pods
    name: str = "pytorchjob"
    title: str = "PyTorchJob"
    container: str = "pytorch"

    def __post_init__(self) -> None:
        self.cannot: Mapping[str, str] = {
            "kill-store": "the store is in the pod of rank 0: see there",
            "kill-worker-operator-away": "a fault of the operator of TorchrunJobs",
        }
        self.shrinks: Mapping[str, str] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Run the training-operator, built from its Go module, on this computer."""
        with pytorchjobs.operator(self.kubectl):
            yield

    def create(self, job: str, nodes: int) -> None:
        """Create an elastic PyTorchJob."""
        # Without a rendezvous ID, the library would wait to see whether the earlier workers belong to another run.
        rendezvous = {"rdzvBackend": "c10d", "rdzvId": job}
        elastic = {**rendezvous, "minReplicas": MIN, "maxReplicas": MAX, "maxRestarts": _RESTARTS}
        template = self.pods.wired_by_hand(job, self.container, ["torchrun", "--nproc-per-node=1"])
        worker = {"replicas": nodes, "restartPolicy": "OnFailure", "template": template}
        spec = {"elasticPolicy": elastic, "pytorchReplicaSpecs": {"Worker": worker}}
        kind = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}
        self.kubectl.apply({**kind, "metadata": {"name": job}, "spec": spec})

    def delete(self, job: str) -> None:
        """Delete the PyTorchJob."""
        self.kubectl.run("delete", "pytorchjob", job, "--ignore-not-found")

    def scale(self, job: str, nodes: int) -> None:
        """Change the number of workers."""
        self.kubectl.patch("pytorchjob", job, {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": nodes}}}})

    def store_home(self, job: str) -> tuple[str, str]:
        """Return the first worker."""
        return f"{job}-worker-0", self.container

    def restarts(self, job: str) -> dict[str, int] | None:
        """Return no causes: PyTorchJob does not report them."""
        return {}

    def spares(self, job: str) -> frozenset[str]:
        """Return none."""
        return frozenset()


@dataclass
class Plain:
    """A headless service and pods, as users write them by hand."""

    kubectl: Kubectl
    pods: Pods
    name: str = "pods"
    title: str = "pods by hand"
    container: str = TRAINER

    def __post_init__(self) -> None:
        by_hand = "there is no operator that creates or deletes pods"
        alike = "only torchrun acts here, as with PyTorchJob"
        self.cannot: Mapping[str, str] = {
            "kill-store": "the store is in the pod of rank 0: see there",
            "kill-worker-operator-away": "there is no operator",
            "drain": "an eviction is a deletion with grace: see there",
            "scale-up": by_hand,
            "scale-down": by_hand,
            "stop-machine": alike,
            "partition": alike,
        }
        self.shrinks: Mapping[str, str] = dict.fromkeys(
            ("delete", "terminate"), "no operator replaces the deleted pod: training continues with fewer nodes"
        )

    def installed(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def create(self, job: str, nodes: int) -> None:
        """Create the service and the pods."""
        command = [
            "torchrun",
            f"--nnodes={MIN}:{MAX}",
            "--nproc-per-node=1",
            f"--max-restarts={_RESTARTS}",
            f"--rdzv-id={job}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={job}-0.{job}:29400",
        ]
        template = self.pods.wired_by_hand(job, self.container, command)
        service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": template["metadata"]["labels"]}
        objects: list[Object] = [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": job}, "spec": service},
        ]
        for number in range(nodes):
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
            pod["metadata"]["name"] = f"{job}-{number}"
            pod["spec"] |= {"hostname": f"{job}-{number}", "subdomain": job, "restartPolicy": "OnFailure"}
            objects.append(pod)
        self.kubectl.apply(*objects)

    def delete(self, job: str) -> None:
        """Delete the service. The pods are deleted with those of all jobs."""
        self.kubectl.run("delete", "service", job, "--ignore-not-found")

    def scale(self, job: str, nodes: int) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(f"{job} cannot be scaled to {nodes}: {self.cannot['scale-up']}")

    def store_home(self, job: str) -> tuple[str, str]:
        """Return the first pod."""
        return f"{job}-0", self.container

    def restarts(self, job: str) -> dict[str, int] | None:
        """Return no causes: there is no operator that counts."""
        return {}

    def spares(self, job: str) -> frozenset[str]:
        """Return none."""
        return frozenset()


def all_systems(kubectl: Kubectl, pods: Pods) -> list[System]:
    """Return all compared systems, this operator first."""
    ours = (Ours(kubectl, pods), Spare(kubectl, pods), Cold(kubectl, pods))
    return [*ours, PyTorchJob(kubectl, pods), Plain(kubectl, pods)]
