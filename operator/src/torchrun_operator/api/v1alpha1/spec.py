"""The desired state of a TorchrunJob; field names follow torchrun, or ``batch/v1 Job`` where torchrun has none."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from torchrun_operator.api.base import Model
from torchrun_operator.api.launching import launched
from torchrun_operator.api.names import (
    MANAGER,
    MAX_SPARES,
    MODULE_PATTERN,
    TRAINER_CONTAINER,
    WORKER_PYTHON,
)
from torchrun_operator.api.nnodes import NodeRange, parse_nnodes, parse_nproc_per_node
from torchrun_operator.api.v1alpha1.failure_policy import FailurePolicy
from torchrun_operator.api.v1alpha1.fault_tolerance import FaultTolerance, FaultToleranceMode
from torchrun_operator.api.v1alpha1.lead import CompletionPolicy, Lead
from torchrun_operator.api.v1alpha1.rendezvous import Rendezvous, RendezvousBackend
from torchrun_operator.api.v1alpha1.transfer import Inputs, Outputs, Transfer


def _check_nnodes(nnodes: object) -> object:
    parse_nnodes(nnodes)
    return nnodes


class ConfigMapReference(Model):
    """A ConfigMap in the namespace of the job."""

    name: Annotated[
        str, Field(description="Name of the ConfigMap, in the namespace of the job.", min_length=1, max_length=253)
    ]


class Nccl(Model):
    """Settings of the collective communication library, NCCL."""

    env: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(
            description="Environment variables of the trainer container. Names must start with NCCL_, TORCH_NCCL_, "
            "OFI_NCCL_, GLOO_, FI_ or UCX_. Example: {NCCL_DEBUG: INFO}.",
            max_length=128,
        ),
    ] = {}  # noqa: RUF012
    config_map_ref: Annotated[
        ConfigMapReference | None,
        Field(
            description="A ConfigMap whose keys become environment variables of the trainer container, for example "
            "the settings of a pool of Kubernetes nodes. nccl.env overrides it."
        ),
    ] = None


class File(Model):
    """One inline file."""

    path: Annotated[
        str,
        Field(
            description="Absolute path of the file in the trainer container. Example: /workspace/train.py.",
            min_length=1,
            max_length=256,
        ),
    ]
    content: Annotated[
        str,
        Field(
            description="Content of the file, as text. All files together may have at most 900 KiB.", max_length=921600
        ),
    ]


class Snapshots(Model):
    """A shared volume for the snapshots that training resumes from."""

    mount_path: Annotated[
        str,
        Field(
            description="Path at which the trainer container mounts the volume. Example: /snapshots.",
            min_length=1,
            max_length=256,
        ),
    ] = "/snapshots"
    claim_name: Annotated[
        str | None,
        Field(
            description="An existing PersistentVolumeClaim in the namespace of the job. Pods on more than one "
            "Kubernetes node need the access mode ReadWriteMany. Set either this field or volumeClaimTemplate.",
            min_length=1,
            max_length=253,
        ),
    ] = None
    volume_claim_template: Annotated[
        dict[str, Any] | None,
        Field(
            description="A PersistentVolumeClaim (metadata: labels and annotations; spec) that the operator creates "
            "for the job. It is deleted with the job. Set either this field or claimName."
        ),
    ] = None


class Elasticity(Model):
    """How the job recovers from the loss of nodes."""

    spares: Annotated[
        int,
        Field(
            description="Number of spare nodes. Spares wait at the rendezvous with torchrun loaded, and one takes the "
            "place of a lost node at once. The pod that replaces the lost node becomes the next spare. You can change "
            "this field at any time. Example: 1.",
            ge=0,
            le=MAX_SPARES,
        ),
    ] = 0
    warm_start: Annotated[
        bool,
        Field(
            description="Whether each node keeps a process that has torch loaded and forks its workers from it. "
            "Workers then start seconds sooner. It has no effect in static jobs, and where the command does not name "
            "torchrun, unless there are spares or preload. A change applies to pods created after it."
        ),
    ] = True
    preload: Annotated[
        tuple[Annotated[str, Field(max_length=128, pattern=MODULE_PATTERN)], ...],
        Field(
            description="Python modules to load in addition to torch, unless warmStart is false. Loading them must not "
            "start threads or processes, and must not use a GPU. Example: [numpy, torchvision].",
            max_length=32,
        ),
    ] = ()


FROZEN: Final = (
    "nnodes", "nproc_per_node", "rendezvous", "nccl", "files", "inputs", "snapshots", "lead", "fault_tolerance",
    "template",
)  # fmt: skip
"""The fields of the spec that pods are made from. They change only while a job is suspended."""


class TorchrunJobSpec(Model):
    """The desired state of a TorchrunJob."""

    nnodes: Annotated[
        int | str,
        BeforeValidator(_check_nnodes),
        Field(
            description='Number of nodes as in torchrun --nnodes: a number, or "MIN:MAX" for an elastic job. An '
            "elastic job continues with MIN nodes when others are lost, and grows back to MAX. At most 1000. "
            'Example: "2:4".',
        ),
    ]
    replicas: Annotated[
        int | None,
        Field(
            description="Number of nodes wanted now, from MIN to MAX of spec.nnodes. Defaults to MAX. You can change "
            "it at any time, also with kubectl scale. An autoscaler needs it to be set. Example: 3."
        ),
    ] = None
    nproc_per_node: Annotated[
        int | Literal["auto", "cpu", "gpu"],
        BeforeValidator(parse_nproc_per_node),
        Field(
            description="Number of workers per node as in torchrun --nproc-per-node: a number from 1 to 256, gpu (one "
            "per GPU), cpu (one per CPU), or auto (gpu if the node has a GPU, cpu otherwise). Example: gpu."
        ),
    ] = 1
    max_restarts: Annotated[
        int,
        Field(
            description="How often the job may restart because the user's code failed. One more failure makes the "
            "job fail. Nodes that are lost, preempted, added or removed do not count. Example: 3.",
            ge=0,
            le=1000,
        ),
    ] = 3
    failure_policy: Annotated[
        FailurePolicy,
        Field(
            description="What failures of the code lead to: a rule can fail the job at once, or let a failure not use "
            "up spec.maxRestarts. You can change this field at any time."
        ),
    ] = FailurePolicy()
    progress_deadline_seconds: Annotated[
        int | None,
        Field(
            description="Maximum time in seconds from one reported step to the next, including evaluations and "
            "snapshots. After that time the workers are considered hung: they log their stacks and restart, and a "
            "failure of the code is counted. If unset, three times the longest time observed, at least 300. 0 disables "
            "hang detection. Example: 600.",
            ge=0,
            le=2**31 - 1,
        ),
    ] = None
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            description="Maximum time in seconds that the job may be active, waiting included. After that time the job "
            "fails and its pods are stopped. The time begins when the job starts, and again when it is resumed. Unset: "
            "no limit. You can change this field at any time. Example: 86400.",
            ge=1,
            le=2**31 - 1,
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            description="Seconds after which a job that is complete or has failed is deleted, with its pods, their "
            "logs and the volume of a volumeClaimTemplate. They begin with the end of the job, or of its upload; a "
            "job whose upload failed stays. 0: at once. Unset: the job stays. You can change this field at any time. "
            "Example: 86400.",
            ge=0,
            le=2**31 - 1,
        ),
    ] = None
    rendezvous: Annotated[Rendezvous, Field(description="How the nodes find each other and form rounds.")] = (
        Rendezvous()
    )
    elasticity: Annotated[Elasticity, Field(description="How the job recovers from the loss of nodes.")] = Elasticity()
    fault_tolerance: Annotated[
        FaultTolerance, Field(description="What the other nodes do when one is lost or comes.")
    ] = FaultTolerance()
    nccl: Annotated[Nccl, Field(description="Settings of the collective communication library, NCCL.")] = Nccl()
    files: Annotated[
        tuple[File, ...],
        Field(
            description="Files to mount into the trainer container of every node, so that you can run a script "
            "without building an image. With more than 256 KiB, use kubectl apply --server-side.",
            max_length=64,
        ),
    ] = ()
    snapshots: Annotated[
        Snapshots | None,
        Field(description="A shared volume for the snapshots that training resumes from."),
    ] = None
    lead: Annotated[
        Lead | None,
        Field(
            description="What differs in node 0, the lead. With the c10d backend, the ranks of nodes are those of the "
            "rendezvous: rank 0 need not be in node 0."
        ),
    ] = None
    completion_policy: Annotated[
        CompletionPolicy,
        Field(
            description="When the job is complete. AllNodes: when every node has succeeded. Lead: when node 0 has "
            "succeeded; the operator then stops the other nodes. You can change this field at any time."
        ),
    ] = CompletionPolicy.ALL_NODES
    inputs: Inputs = ()
    outputs: Outputs = ()
    transfer: Annotated[Transfer, Field(description="How inputs and outputs are transferred.")] = Transfer()
    network_policy: Annotated[
        bool,
        Field(
            description="Whether NetworkPolicies let only the pods of the job reach its nodes and its rendezvous, and "
            "the operator the rendezvous. In a namespace whose policies restrict what pods may reach, they also let "
            "the nodes reach each other and DNS. They need a network plugin that enforces policies. If false, the job "
            "has no policies."
        ),
    ] = True
    managed_by: Annotated[
        str | None,
        Field(
            description=f"The controller of the job. With another value than {MANAGER}, this operator does nothing "
            "with the job, and does not write its status: another controller does. It cannot be changed. Example: "
            "kueue.x-k8s.io/multikueue.",
            max_length=63,
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        ),
    ] = None
    suspend: Annotated[
        bool,
        Field(
            description="Whether the job is suspended: all its pods are deleted. Setting this field to false resumes "
            "training from the last snapshot. You can change every other field while it is true, and in the same "
            "request that sets it to true or to false."
        ),
    ] = False
    template: Annotated[
        dict[str, Any],
        Field(
            description="The pod template of every node, an ordinary PodTemplateSpec. The container named trainer runs "
            "torchrun, which reads its settings from the environment. Example command: [torchrun, /workspace/train.py]."
        ),
    ]

    @property
    def static(self) -> bool:
        """Whether the nodes start together with fixed ranks, without a rendezvous host."""
        return self.rendezvous.backend is RendezvousBackend.STATIC

    @property
    def per_step(self) -> bool:
        """Whether the workers of the other nodes go on when a node is lost."""
        return self.fault_tolerance.mode is FaultToleranceMode.PER_STEP

    @property
    def ends_with_lead(self) -> bool:
        """Whether the job is complete when node 0 has succeeded."""
        return self.completion_policy is CompletionPolicy.LEAD

    @property
    def node_range(self) -> NodeRange:
        """MIN and MAX of ``nnodes``."""
        return parse_nnodes(self.nnodes)

    @property
    def min_nodes(self) -> int:
        """The minimum number of nodes that the job trains with."""
        return self.node_range.min

    @property
    def max_nodes(self) -> int:
        """The maximum number of nodes, spares aside."""
        return self.node_range.max

    @cached_property
    def frozen_digest(self) -> str:
        """A digest of the frozen fields. Each pod carries it: the operator may miss a short suspension.

        Defaults do not count. A new field, which no job sets yet, thus leaves the digest as it is.
        """
        fields = self.model_dump(mode="json", include=set(FROZEN), exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The containers of the template, unchanged."""
        containers: list[dict[str, Any]] = (self.template.get("spec") or {}).get("containers") or []
        return containers

    @property
    def trainer(self) -> dict[str, Any]:
        """The trainer container of the template; empty if there is none, which :func:`problems` reports."""
        return next((container for container in self.containers if container.get("name") == TRAINER_CONTAINER), {})

    def trainer_of(self, index: int) -> dict[str, Any]:
        """The trainer container of the node with that index: that of the template, unless the lead's differs."""
        return self.lead.trainer(self.trainer) if index == 0 and self.lead is not None else self.trainer

    def starts_warm(self, index: int) -> bool:
        """Whether workers of that node start warm, unless the user names a Python for them.

        Where the operator does not see that torchrun starts, they do only if the job asks for that: the launcher needs
        a shell and a Python then, which the image need not have.
        """
        trainer, elasticity = self.trainer_of(index), self.elasticity
        own = any(variable.get("name") == WORKER_PYTHON for variable in trainer.get("env") or [])
        asked = bool(elasticity.spares or elasticity.preload)
        return elasticity.warm_start and not self.static and not own and (asked or launched(trainer) is not None)

    def starts_by_launcher(self, index: int) -> bool:
        """Whether the launcher starts torchrun on that node, so that it can fork it."""
        return self.starts_warm(index) and launched(self.trainer_of(index)) is not None

    @property
    def outlives_host(self) -> bool:
        """Whether the agents of all nodes go on without the rendezvous host, and bring its successor the state."""
        return self.starts_by_launcher(0) and self.starts_by_launcher(1)

    def command_of(self, index: int) -> tuple[str, ...]:
        """Return the command and the arguments of the trainer container of the node with that index."""
        trainer = self.trainer_of(index)
        return tuple(str(word) for word in (*(trainer.get("command") or ()), *(trainer.get("args") or ())))
