"""The desired state of a TorchrunJob; field names follow torchrun, or ``batch/v1 Job`` where torchrun has none."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from torchrun_operator.api.base import Model
from torchrun_operator.api.names import MAX_SPARES, MODULE_PATTERN, PORT_STORE, TRAINER_CONTAINER
from torchrun_operator.api.nnodes import NodeRange, parse_nnodes, parse_nproc_per_node


class RendezvousBackend(StrEnum):
    """How the nodes find each other."""

    C10D = "c10d"


class RendezvousHost(StrEnum):
    """Where the rendezvous store lives."""

    DEDICATED = "Dedicated"


def _check_nnodes(nnodes: object) -> object:
    parse_nnodes(nnodes)
    return nnodes


class Rendezvous(Model):
    """How nodes find each other and form a world."""

    backend: Annotated[
        RendezvousBackend, Field(description="torchrun's rendezvous backend; c10d, the only one, is elastic.")
    ] = RendezvousBackend.C10D
    host: Annotated[
        RendezvousHost,
        Field(
            description="Where the rendezvous store lives. Dedicated, the only choice: a small pod of its own, "
            "so that every node of the job, rank 0 included, may come and go."
        ),
    ] = RendezvousHost.DEDICATED
    port: Annotated[
        int,
        Field(description="TCP port of the rendezvous store; not 29401, where its control port is.", ge=1024, le=65535),
    ] = PORT_STORE
    last_call_seconds: Annotated[
        int,
        Field(
            description="Seconds that a round waits at most for nodes that are starting, once MIN are in; when all "
            "that can be expected are in, training starts at once. Example: 15.",
            ge=0,
            le=3600,
        ),
    ] = 15
    conf: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(
            description='Further keys for torchrun --rdzv-conf, each value a string. Example: {read_timeout: "120"}.',
            max_length=32,
        ),
    ] = {}  # noqa: RUF012


class ConfigMapReference(Model):
    """A ConfigMap in the job's namespace."""

    name: Annotated[
        str, Field(description="Name of the ConfigMap, in the job's namespace.", min_length=1, max_length=253)
    ]


class Nccl(Model):
    """Settings of the collective communication library."""

    env: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(
            description="Environment variables for the trainer container, names starting with NCCL_, TORCH_NCCL_, "
            "OFI_NCCL_, GLOO_, FI_ or UCX_. Example: {NCCL_DEBUG: INFO}.",
            max_length=128,
        ),
    ] = {}  # noqa: RUF012
    config_map_ref: Annotated[
        ConfigMapReference | None,
        Field(
            description="A ConfigMap whose keys become environment variables of the trainer container: settings for a "
            "whole pool of machines that its administrator keeps. nccl.env wins over it."
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
        str, Field(description="Content of the file, as text; all files together at most 900 KiB.", max_length=921600)
    ]


class Snapshots(Model):
    """A volume that all nodes share, for the snapshots that training resumes from."""

    mount_path: Annotated[
        str,
        Field(
            description="Where the volume is mounted in the trainer container. Example: /snapshots.",
            min_length=1,
            max_length=256,
        ),
    ] = "/snapshots"
    claim_name: Annotated[
        str | None,
        Field(
            description="An existing PersistentVolumeClaim in the job's namespace; nodes on several machines need "
            "one with access mode ReadWriteMany. Set this or volumeClaimTemplate.",
            min_length=1,
            max_length=253,
        ),
    ] = None
    volume_claim_template: Annotated[
        dict[str, Any] | None,
        Field(
            description="A PersistentVolumeClaim (metadata: labels and annotations; spec) to create for the job and "
            "to delete with it. Set this or claimName."
        ),
    ] = None


class Elasticity(Model):
    """How the job gets over the loss of nodes."""

    spares: Annotated[
        int,
        Field(
            description="Nodes kept beyond the wanted ones: they wait at the rendezvous with torchrun loaded, and one "
            "takes the place of a lost node at once; its replacement becomes the next spare. It may be changed at any "
            "time. Example: 1.",
            ge=0,
            le=MAX_SPARES,
        ),
    ] = 0
    warm_start: Annotated[
        bool,
        Field(
            description="Whether each node keeps a process that has torch loaded and forks its workers from there, so "
            "that they begin seconds sooner after a loss. A change takes effect in the pods that are made after it."
        ),
    ] = False
    preload: Annotated[
        tuple[Annotated[str, Field(max_length=128, pattern=MODULE_PATTERN)], ...],
        Field(
            description="Python modules to load beside torch where warmStart is true; loading them must neither start "
            "threads or processes nor touch a GPU. Example: [numpy, torchvision].",
            max_length=32,
        ),
    ] = ()


class TorchrunJobSpec(Model):
    """What the user wants."""

    nnodes: Annotated[
        int | str,
        BeforeValidator(_check_nnodes),
        Field(
            description='Number of nodes as in torchrun --nnodes: a number, or "MIN:MAX" for an elastic job, which '
            'trains on with MIN when nodes are lost and grows back to MAX. At most 1000. Example: "2:4".',
        ),
    ]
    replicas: Annotated[
        int | None,
        Field(
            description="Nodes wanted now, from MIN to MAX of spec.nnodes; MAX when unset. It may be changed at any "
            "time, also by kubectl scale, and by an autoscaler if it is set in the first place. Example: 3."
        ),
    ] = None
    nproc_per_node: Annotated[
        int | Literal["auto", "cpu", "gpu"],
        BeforeValidator(parse_nproc_per_node),
        Field(
            description="Worker processes per node as in torchrun --nproc-per-node: a number from 1 to 256, gpu (one "
            "per GPU of the node), cpu (one per CPU), or auto (gpu where there is one, cpu otherwise). Example: gpu."
        ),
    ] = 1
    max_restarts: Annotated[
        int,
        Field(
            description="How often the job may restart because the user's code failed, before the job fails. Nodes "
            "that are lost, preempted, added or removed cost nothing. Example: 3.",
            ge=0,
            le=1000,
        ),
    ] = 3
    progress_deadline_seconds: Annotated[
        int | None,
        Field(
            description="Seconds from one reported step to the next, an evaluation or a snapshot in between included, "
            "after which the workers hang: their stacks are logged and they are restarted, as a failure of the code. "
            "When unset three times the longest that was seen, and at least 300. 0 switches it off. Example: 600.",
            ge=0,
            le=2**31 - 1,
        ),
    ] = None
    rendezvous: Annotated[Rendezvous, Field(description="How the nodes find each other and form a world.")] = (
        Rendezvous()
    )
    elasticity: Annotated[Elasticity, Field(description="How the job gets over the loss of nodes.")] = Elasticity()
    nccl: Annotated[Nccl, Field(description="Settings of the collective communication library, for every node.")] = (
        Nccl()
    )
    files: Annotated[
        tuple[File, ...],
        Field(
            description="Files mounted into the trainer container of every node, so that trying a script takes no "
            "image build. With more than 256 KiB use kubectl apply --server-side.",
            max_length=64,
        ),
    ] = ()
    snapshots: Annotated[
        Snapshots | None,
        Field(description="A volume that all nodes share, for the snapshots that training resumes from."),
    ] = None
    network_policy: Annotated[
        bool,
        Field(
            description="Whether a NetworkPolicy keeps all but the job's own pods and the operator away from the "
            "rendezvous. It works where the cluster's network plugin enforces policies."
        ),
    ] = True
    suspend: Annotated[
        bool,
        Field(
            description="Whether the job is to stop and give back its nodes; setting it to false resumes training from "
            "the last snapshot. While it is true every field may be changed."
        ),
    ] = False
    template: Annotated[
        dict[str, Any],
        Field(
            description="The pod of every node: an ordinary PodTemplateSpec. Its container named trainer runs "
            "torchrun, which finds its settings in the environment. Example command: [torchrun, /workspace/train.py]."
        ),
    ]

    @property
    def node_range(self) -> NodeRange:
        """MIN and MAX of ``nnodes``."""
        return parse_nnodes(self.nnodes)

    @property
    def min_nodes(self) -> int:
        """The fewest nodes that the job trains with."""
        return self.node_range.min

    @property
    def max_nodes(self) -> int:
        """The most nodes that the job can have."""
        return self.node_range.max

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The template's containers, as they are."""
        containers: list[dict[str, Any]] = (self.template.get("spec") or {}).get("containers") or []
        return containers

    @property
    def trainer(self) -> dict[str, Any]:
        """The template's container that trains; empty when there is none, which :func:`problems` reports."""
        return next((container for container in self.containers if container.get("name") == TRAINER_CONTAINER), {})
