"""What a job owns besides its pods."""

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.part import Installation, Manifest
from torchrun_operator.render.programs import Programs


def prerequisites(job: TorchrunJob, programs: Programs, operator_namespace: str | None) -> list[Manifest]:
    """Return the objects that must exist before the pods of the job: what they mount, and who may reach them."""
    installation = Installation(programs, operator_namespace)
    return [manifest for part in PARTS for manifest in part.prerequisites(job, installation)]


def services(job: TorchrunJob) -> list[Manifest]:
    """Return the Services with the DNS names of the pods."""
    return [manifest for part in PARTS for manifest in part.services(job)]
