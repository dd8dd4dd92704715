"""How the nodes find each other: the backend of torchrun, and where its store runs."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from torchrun_operator.api.base import Model
from torchrun_operator.api.names import PORT_STORE


class RendezvousBackend(StrEnum):
    """How the nodes find each other."""

    C10D = "c10d"
    STATIC = "static"


class RendezvousHost(StrEnum):
    """Where the rendezvous store lives."""

    DEDICATED = "Dedicated"


class Rendezvous(Model):
    """How the nodes find each other and form rounds."""

    backend: Annotated[
        RendezvousBackend,
        Field(
            description="The rendezvous backend of torchrun. c10d: the job is elastic. static: a fixed number of nodes "
            "starts together, and the index of a pod is its node rank. If one node is lost, all start again. There is "
            "no rendezvous pod: host, lastCallSeconds and template have no effect."
        ),
    ] = RendezvousBackend.C10D
    host: Annotated[
        RendezvousHost,
        Field(
            description="Where the rendezvous store runs. Only Dedicated is supported: a small pod of its own, "
            "so that the job survives the loss of any node, rank 0 included."
        ),
    ] = RendezvousHost.DEDICATED
    port: Annotated[
        int,
        Field(
            description="TCP port of the rendezvous store; MASTER_PORT of a static job. 29401 is taken by the control "
            "port.",
            ge=1024,
            le=65535,
        ),
    ] = PORT_STORE
    last_call_seconds: Annotated[
        int,
        Field(
            description="Maximum time in seconds that a round waits for nodes that are starting, once MIN nodes have "
            "joined. The round starts at once when every expected node has joined. Example: 15.",
            ge=0,
            le=3600,
        ),
    ] = 15
    conf: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(
            description='Additional keys for torchrun --rdzv-conf. Values are strings. Example: {read_timeout: "120"}.',
            max_length=32,
        ),
    ] = {}  # noqa: RUF012
    template: Annotated[
        dict[str, Any] | None,
        Field(
            description="The pod of the rendezvous host: a part of a PodTemplateSpec. What you set here replaces what "
            "the operator takes from spec.template, or chooses. metadata: labels, annotations; spec: placement "
            "(nodeSelector, affinity, tolerations, topologySpreadConstraints, schedulerName), priorityClassName, "
            "runtimeClassName, serviceAccountName, imagePullSecrets, securityContext, and a container named rendezvous "
            "(image, imagePullPolicy, resources, env, securityContext; command: the Python to run with). Example: "
            "{spec: {nodeSelector: {pool: cpu}, containers: [{name: rendezvous, resources: {requests: {cpu: 100m}}}]}}."
        ),
    ] = None
