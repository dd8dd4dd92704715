"""A job as its checks see it: what it wants, and what is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from torchrun_cli.doctor.findings import Object, Seen, Unread
from torchrun_cli.show.pace import condition, has_ended
from torchrun_operator.api.names import LABEL_JOB_NAME, LABEL_NODE_INDEX, LABEL_ROLE, ROLE_NODE, ROLE_RENDEZVOUS
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.namespace import NamespaceRules
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.rendezvous_pod import rendezvous_pod

_ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True)
class JobCase:
    """A job, its pods, and the pods that it lacks."""

    raw: Object
    """The job as the API server has it."""
    job: TorchrunJob | None
    """The same, if it is valid."""
    problems: tuple[str, ...]
    """Why it is not."""
    pods: tuple[Object, ...]
    """Its pods that have not ended."""
    missing: tuple[Object, ...]
    """Manifests of the pods that it wants and does not have: the rendezvous pod first, then nodes by index."""
    seen: Seen

    @property
    def name(self) -> str:
        """The name of the job."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def status(self) -> Object:
        """The status of the job."""
        return self.raw.get("status") or {}

    @property
    def suspended(self) -> bool:
        """Whether it is suspended: its pods are missing by wish."""
        return bool((self.raw.get("spec") or {}).get("suspend"))

    @property
    def unplaced(self) -> tuple[Object, ...]:
        """The pods without a Kubernetes node, missing ones included; the rendezvous pod first."""
        waiting = [pod for pod in self.pods if not pod["spec"].get("nodeName")]
        return tuple(sorted([*waiting, *self.missing], key=_order))

    @property
    def starting(self) -> bool:
        """Whether a pod is missing or does not run yet, so that what is wrong here keeps it from starting."""
        return bool(self.missing) or any((pod.get("status") or {}).get("phase") == "Pending" for pod in self.pods)

    def enough(self, without: int) -> bool:
        """Whether at least MIN nodes are left if that many of the nodes that the job wants cannot run."""
        assert self.job is not None
        return wanted_nodes(self.job) - without >= self.job.spec.min_nodes

    def condition(self, kind: str) -> Object:
        """Return a condition of the job; an empty one if there is none."""
        return condition(self.raw, kind)


def job_case(raw: Object, job: TorchrunJob | None, problems: tuple[str, ...], seen: Seen) -> JobCase:
    """Return the case of a job. ``seen`` has the pods of its namespace, or only its own."""
    name, uid = raw["metadata"]["name"], raw["metadata"].get("uid")
    own = [pod for pod in seen.get("pods") if is_own(pod, name, uid)]
    pods = tuple(pod for pod in own if (pod.get("status") or {}).get("phase") not in _ENDED)
    known = job is not None and not has_ended(raw) and not isinstance(seen.lists.get("pods"), Unread)
    missing = tuple(_missing(job, own, seen)) if known and job is not None else ()
    return JobCase(raw, job, problems, pods, missing, seen)


def is_own(pod: Object, name: str, uid: str | None) -> bool:
    """Whether a pod belongs to the job, and not to an earlier one of that name."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or ()
    return labels_of(pod).get(LABEL_JOB_NAME) == name and any(each.get("uid") == uid for each in owners)


def labels_of(pod: Object) -> dict[str, str]:
    """Return the labels of an object."""
    return pod["metadata"].get("labels") or {}


def is_host(pod: Object) -> bool:
    """Whether it is the rendezvous pod."""
    return labels_of(pod).get(LABEL_ROLE) == ROLE_RENDEZVOUS


def nodes_of(pods: tuple[Object, ...] | list[Object]) -> list[Object]:
    """Return the pods of nodes."""
    return [pod for pod in pods if labels_of(pod).get(LABEL_ROLE) == ROLE_NODE]


def wanted_nodes(job: TorchrunJob) -> int:
    """Return how many nodes the job wants, without spares."""
    return job.spec.max_nodes if job.spec.replicas is None else job.spec.replicas


def wanted_pods(job: TorchrunJob) -> Iterator[Object]:
    """Yield one pod of each kind that the job wants: that of the rendezvous, and that of node 0."""
    if not job.spec.static:
        yield rendezvous_pod(job, "")
    yield node_pod(job, 0)


def _missing(job: TorchrunJob, own: list[Object], seen: Seen) -> Iterator[Object]:
    there = {labels_of(pod).get(LABEL_NODE_INDEX) for pod in nodes_of(own)}
    if not job.spec.static and not any(is_host(pod) for pod in own):
        yield rendezvous_pod(job, "", NamespaceRules(limit_ranges=seen.get("limitranges")))
    for index in range(wanted_nodes(job) + job.spec.elasticity.spares):
        if str(index) not in there:
            yield node_pod(job, index)


def _order(pod: Object) -> tuple[bool, int]:
    index = labels_of(pod).get(LABEL_NODE_INDEX, "0")
    return (not is_host(pod), int(index) if index.isdecimal() else 0)


def containers_of(spec: Object) -> list[dict[str, Any]]:
    """Return all containers of a pod, those that run first included."""
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
