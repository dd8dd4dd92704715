"""How Kubernetes ends pods: each form of a rejection, an eviction and an own limit, with its cause and its words.

The messages are those of the kubelet (pkg/kubelet/lifecycle, eviction, preemption, nodeshutdown of Kubernetes 1.35).
"""

from typing import Any

import pytest

from builders import NOW, make_job, make_rendezvous
from torchrun_operator.api.v1alpha1 import NodeStatus, RendezvousStatus
from torchrun_operator.core.facts.model import Cause
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.core.findings.losses import new_losses

HOST = RendezvousStatus(instance="aa", since=NOW)
REJECTED = "Pod was rejected: "
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 81252Ki. "
SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
PRESSURE = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}


def pod(of_pod: str = "", words: str = "", *, condition: Any = None, **trainer: Any) -> Any:
    """Return a failed pod. ``trainer``: how its trainer container ended; it never ran without it."""
    status: dict[str, Any] = {"phase": "Failed"}
    status |= {"reason": of_pod} if of_pod else {}
    status |= {"message": words} if words else {}
    status |= {"conditions": [condition]} if condition else {}
    if trainer:
        ended = {"reason": "Error", "finishedAt": "2026-01-31T12:00:00Z", **trainer}
        status["containerStatuses"] = [{"name": "trainer", "state": {"terminated": ended}}]
    return {
        "metadata": {
            "name": "digits-1",
            "uid": "pod-1",
            "creationTimestamp": "2026-01-31T11:50:00Z",
            "labels": {"torchrun.dev/role": "node", "torchrun.dev/node-index": "1"},
            "ownerReferences": [{"uid": "job-uid", "controller": True}],
        },
        "spec": {"nodeName": "m1"},
        "status": status,
    }


def rejected(reason: str, words: str) -> tuple[Any, Cause, str]:
    return pod(reason, REJECTED + words), Cause.INFRASTRUCTURE, f"failed: {reason}: {REJECTED}{words}"


INSUFFICIENT = "Node didn't have enough resource: {}, requested: 64000, used: 250, capacity: 2000"
RUNC = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: "
)
FORMS: dict[str, tuple[Any, Cause, str]] = {
    # Rejections: the pod never ran.
    "no CPU left": rejected("OutOfcpu", INSUFFICIENT.format("cpu")),
    "no memory left": rejected("OutOfmemory", INSUFFICIENT.format("memory")),
    "no ephemeral storage left": rejected("OutOfephemeral-storage", INSUFFICIENT.format("ephemeral-storage")),
    "too many pods": rejected("OutOfpods", INSUFFICIENT.format("pods")),
    "no GPU left": rejected("OutOfnvidia.com/gpu", INSUFFICIENT.format("nvidia.com/gpu")),
    "no network card left": rejected("OutOfrdma/hca", INSUFFICIENT.format("rdma/hca")),
    "no huge pages left": rejected("OutOfhugepages-2Mi", INSUFFICIENT.format("hugepages-2Mi")),
    "a device plugin fails": rejected(
        "UnexpectedAdmissionError",
        "Allocate failed due to no healthy devices present; cannot allocate unhealthy "
        "devices nvidia.com/gpu, which is unexpected",
    ),
    "devices on two sockets": rejected("TopologyAffinityError", "Resources cannot be allocated with Topology locality"),
    "half a core": rejected("SMTAlignmentError", "SMT Alignment Error: requested 3 cpus not multiple cpus per core"),
    "labels of the Kubernetes node have changed": rejected("NodeAffinity", "Predicate NodeAffinity failed"),
    "the port is taken": rejected("NodePorts", "Predicate NodePorts failed"),
    "another name": rejected("NodeName", "Predicate NodeName failed"),
    "a new taint": rejected("TaintToleration", "Predicate TaintToleration failed"),
    "another operating system": rejected(
        "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
    ),
    "another operating system by its label": rejected(
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    ),
    "the kubelet does not know its node yet": rejected("InvalidNodeInfo", "Kubelet cannot get node info."),
    "no AppArmor": rejected("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"),
    "a forbidden sysctl": rejected("SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted'),
    "an old kubelet, groups": rejected(
        "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"
    ),
    "an old kubelet, resources of pods": rejected("PodLevelResourcesNotSupported", "PodLevelResources is disabled"),
    "too many volumes": rejected("VolumeAttachmentLimitExceeded", "Node has reached its volume attachment limit"),
    "an unknown predicate": rejected("UnexpectedPredicateFailureType", "GeneralPredicates failed due to x"),
    "no reason": rejected("UnknownReason", "GeneralPredicates failed due to unknown reason, which is unexpected."),
    "a reason of a later release": rejected("QuantumNotAligned", "the phase of the moon"),
    "the Kubernetes node shuts down": rejected("NodeShutdown", "Pod was rejected as the node is shutting down."),
    # What ends pods that run.
    "shut down, with its exit code": (
        pod("Terminated", SHUTDOWN, condition=PRESSURE, exitCode=143),
        Cause.INFRASTRUCTURE,
        f"exited with code 143 (Terminated): {SHUTDOWN}",
    ),
    "shut down, by a script that ends with 0": (
        pod("Terminated", SHUTDOWN, exitCode=0, reason="Completed"),
        Cause.INFRASTRUCTURE,
        f"exited with code 0 (Terminated): {SHUTDOWN}",
    ),
    "shut down, with an error of the agent": (
        pod("Terminated", SHUTDOWN, exitCode=1),
        Cause.INFRASTRUCTURE,
        f"exited with code 1 (Terminated): {SHUTDOWN}",
    ),
    "its Kubernetes node is lost": (
        pod("NodeLost", "Node m1 which was running pod digits-1 is unresponsive", exitCode=1),
        Cause.INFRASTRUCTURE,
        "exited with code 1 (NodeLost): Node m1 which was running pod digits-1 is unresponsive",
    ),
    "found dead after the Kubernetes node has started again": (
        pod(exitCode=255, reason="Unknown"),
        Cause.INFRASTRUCTURE,
        "exited with code 255 (Unknown)",
    ),
    "its container has vanished": (
        pod(exitCode=137, reason="ContainerStatusUnknown", message="The container could not be located"),
        Cause.INFRASTRUCTURE,
        "exited with code 137 (ContainerStatusUnknown): The container could not be located",
    ),
    "killed from outside": (pod(exitCode=137), Cause.INFRASTRUCTURE, "exited with code 137 (SIGKILL)"),
    "evicted, the Kubernetes node has no memory": (
        pod("Evicted", LOW, condition=PRESSURE, exitCode=137),
        Cause.PREEMPTION,
        f"exited with code 137 (Evicted): {LOW.strip()}",
    ),
    "evicted before it ran, by an old kubelet": (
        pod("Evicted", "The node had condition: [DiskPressure]. "),
        Cause.PREEMPTION,
        "failed: Evicted: The node had condition: [DiskPressure].",
    ),
    "evicted, and its use of the storage is said": (
        pod(
            "Evicted",
            "The node was low on resource: ephemeral-storage. Container trainer was using 50Gi, request is 0, has "
            "larger consumption of ephemeral-storage. ",
            condition=PRESSURE,
            exitCode=137,
        ),
        Cause.PREEMPTION,
        (
            "exited with code 137 (Evicted): The node was low on resource: ephemeral-storage. Container trainer was "
            "using 50Gi, request is 0, has larger consumption of ephemeral-storage."
        ),
    ),
    "preempted for a critical pod": (
        pod("Preempting", "Preempted in order to admit critical pod", condition=PRESSURE, exitCode=143),
        Cause.PREEMPTION,
        "exited with code 143 (Preempting): Preempted in order to admit critical pod",
    ),
    # Own limits.
    "an emptyDir is full": (
        pod("Evicted", 'Usage of EmptyDir volume "shm" exceeds the limit "64Mi". ', exitCode=137),
        Cause.CODE,
        'exited with code 137 (Evicted): Usage of EmptyDir volume "shm" exceeds the limit "64Mi".',
    ),
    "a container wrote too much": (
        pod("Evicted", 'Container trainer exceeded its local ephemeral storage limit "1Gi". ', exitCode=137),
        Cause.CODE,
        'exited with code 137 (Evicted): Container trainer exceeded its local ephemeral storage limit "1Gi".',
    ),
    "the pod wrote too much": (
        pod("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. ", exitCode=143),
        Cause.CODE,
        "exited with code 143 (Evicted): Pod ephemeral local storage usage exceeds the total limit of containers 2Gi.",
    ),
    "an emptyDir is full before the trainer runs": (
        pod("Evicted", 'Usage of EmptyDir volume "data" exceeds the limit "10Gi". '),
        Cause.CODE,
        'failed: Evicted: Usage of EmptyDir volume "data" exceeds the limit "10Gi".',
    ),
    "its deadline": (
        pod("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", exitCode=143),
        Cause.CODE,
        "exited with code 143 (DeadlineExceeded): Pod was active on the node longer than the specified deadline",
    ),
    "its deadline, before the trainer runs": (
        pod("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
        Cause.CODE,
        "failed: DeadlineExceeded: Pod was active on the node longer than the specified deadline",
    ),
    "its memory limit": (
        pod(exitCode=137, reason="OOMKilled"),
        Cause.CODE,
        "exited with code 137 (OOMKilled)",
    ),
    "its command is missing": (
        pod(exitCode=128, reason="StartError", message='exec: "torchrun": executable file not found in $PATH'),
        Cause.CODE,
        'exited with code 128 (StartError): exec: "torchrun": executable file not found in $PATH',
    ),
    "its command is missing, as runc and containerd say it": (
        pod(
            exitCode=128,
            reason="StartError",
            message=RUNC + 'exec: "torchrn": executable file not found in $PATH: unknown',
        ),
        Cause.CODE,
        'exited with code 128 (StartError): exec: "torchrn": executable file not found in $PATH',
    ),
    "its file is no program": (
        pod(
            exitCode=126,
            reason="StartError",
            message=RUNC + 'error during container init: exec: "/train.sh": permission denied: unknown',
        ),
        Cause.CODE,
        'exited with code 126 (StartError): exec: "/train.sh": permission denied',
    ),
    "another container failed first": (pod(), Cause.CODE, "failed: Failed"),
}


@pytest.mark.parametrize(("raw", "cause", "what"), FORMS.values(), ids=FORMS)
def test_end_of_a_pod(raw: Any, cause: Cause, what: str) -> None:
    found = gather(make_job(), NOW, [raw], make_rendezvous())
    (loss,) = new_losses([NodeStatus(index=1, pod="digits-1", uid="pod-1", phase="Running", rank=1)], found, 3, HOST)
    assert (loss.cause, loss.what) == (cause, what)
