"""What a job owns besides its pods."""

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.namespace import NO_RULES, NamespaceRules
from torchrun_operator.render.part import Installation, Manifest
from torchrun_operator.render.programs import Programs


def prerequisites(
    job: TorchrunJob, programs: Programs, operator_namespace: str | None, rules: NamespaceRules = NO_RULES
) -> list[Manifest]:
    """Return the objects that must exist before the pods of the job: what they mount, and who may reach them."""
    installation = Installation(programs, operator_namespace, rules)
    return [manifest for part in PARTS for manifest in part.prerequisites(job, installation)]


def claims(job: TorchrunJob) -> list[Manifest]:
    """Return the objects that must exist before the pods, and that the operator creates and never changes."""
    return [manifest for part in PARTS for manifest in part.claims(job)]


def unwanted(job: TorchrunJob) -> list[Manifest]:
    """Return the kind and metadata of the objects of the job that its spec no longer asks for."""
    return [manifest for part in PARTS for manifest in part.unwanted(job)]


def services(job: TorchrunJob) -> list[Manifest]:
    """Return the Services with the DNS names of the pods."""
    return [manifest for part in PARTS for manifest in part.services(job)]
