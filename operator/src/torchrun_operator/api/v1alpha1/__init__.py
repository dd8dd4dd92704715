"""The models of torchrun.dev/v1alpha1; the CRD and its reference are generated from them."""

from torchrun_operator.api.v1alpha1.job import ObjectMeta, TorchrunJob, job_of, spec_of, status_of
from torchrun_operator.api.v1alpha1.spec import (
    ConfigMapReference,
    Elasticity,
    File,
    Nccl,
    Rendezvous,
    RendezvousBackend,
    RendezvousHost,
    Snapshots,
    TorchrunJobSpec,
)
from torchrun_operator.api.v1alpha1.status import (
    Failure,
    JobState,
    Membership,
    MembershipChange,
    NodeStatus,
    Progress,
    RendezvousStatus,
    Restarts,
    Straggler,
    TorchrunJobStatus,
)

__all__ = [
    "ConfigMapReference",
    "Elasticity",
    "Failure",
    "File",
    "JobState",
    "Membership",
    "MembershipChange",
    "Nccl",
    "NodeStatus",
    "ObjectMeta",
    "Progress",
    "Rendezvous",
    "RendezvousBackend",
    "RendezvousHost",
    "RendezvousStatus",
    "Restarts",
    "Snapshots",
    "Straggler",
    "TorchrunJob",
    "TorchrunJobSpec",
    "TorchrunJobStatus",
    "job_of",
    "spec_of",
    "status_of",
]
