"""The DNS names of the pods."""

from collections.abc import Iterator

from torchrun_operator.api.names import (
    LABEL_JOB_NAME,
    LABEL_ROLE,
    PORT_HTTP,
    PORT_LIGHTHOUSE,
    ROLE_NODE,
    ROLE_RENDEZVOUS,
    rendezvous_name,
    service_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Manifest, Part


def _services(job: TorchrunJob) -> tuple[Manifest, ...]:
    return (_node_service(job),) if job.spec.static else (_node_service(job), _rendezvous_service(job))


def _node_service(job: TorchrunJob) -> Manifest:
    """Headless: it gives each node pod the name `<pod>.<job>`, before the pod is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, service_name(job.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_NODE},
        },
    }


def _rendezvous_service(job: TorchrunJob) -> Manifest:
    """With a cluster IP: the name resolves before the pod exists, and never to the address of a former pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "spec": {
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_RENDEZVOUS},
            "ports": [
                {"name": "store", "port": job.spec.rendezvous.port, "protocol": "TCP"},
                {"name": "http", "port": PORT_HTTP, "protocol": "TCP"},
                *([{"name": "lighthouse", "port": PORT_LIGHTHOUSE, "protocol": "TCP"}] if job.spec.per_step else []),
            ],
        },
    }


def _unwanted(job: TorchrunJob) -> Iterator[Manifest]:
    if job.changed and job.spec.static:
        yield {"kind": "Service", "metadata": owned_metadata(job, rendezvous_name(job.metadata.name))}


PART = Part(services=_services, unwanted=_unwanted)
