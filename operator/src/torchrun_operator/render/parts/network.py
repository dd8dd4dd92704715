"""Who may reach the rendezvous pod."""

from collections.abc import Iterator
from typing import Any

from torchrun_operator.api.names import (
    COMPONENT_OPERATOR,
    LABEL_COMPONENT,
    LABEL_JOB_NAME,
    LABEL_ROLE,
    PORT_HTTP,
    ROLE_RENDEZVOUS,
    rendezvous_name,
)
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Installation, Manifest, Part


def _policy(job: TorchrunJob, installation: Installation) -> Iterator[Manifest]:
    """Let only the job's own pods reach the store, whose clients unpickle its content, and the operator the HTTP port.

    A job without a policy gets one that admits all, so that a change of the field takes effect.
    """
    own = {"podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": installation.namespace}},
        "podSelector": {"matchLabels": {LABEL_COMPONENT: COMPONENT_OPERATOR}},
    }
    control: dict[str, Any] = {"ports": [{"port": PORT_HTTP, "protocol": "TCP"}]}
    if installation.namespace is not None:
        control["from"] = [own, operator]
    store = {"from": [own], "ports": [{"port": job.spec.rendezvous.port, "protocol": "TCP"}]}
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
        "spec": {
            "podSelector": {"matchLabels": {LABEL_JOB_NAME: job.metadata.name, LABEL_ROLE: ROLE_RENDEZVOUS}},
            "policyTypes": ["Ingress"],
            "ingress": [store, control] if job.spec.network_policy else [{}],
        },
    }


PART = Part(prerequisites=_policy)
