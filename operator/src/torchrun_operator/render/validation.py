"""Every rule on a job, those of the resource and those of the parts, in one list."""

from typing import Final

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.api.validation import Problem, resource_problems
from torchrun_operator.render.catalog import PARTS

_FIRST: Final = (
    "metadata",
    "spec.nnodes",
    "spec.nprocPerNode",
    "spec.replicas",
    "spec.progressDeadlineSeconds",
    "spec.elasticity",
    "spec.rendezvous",
    "spec.nccl",
    "spec.files",
    "spec.snapshots",
    "spec.lead",
    "spec.inputs",
    "spec.outputs",
)
_LAST: Final = "spec.template"


def problems(job: TorchrunJob) -> list[Problem]:
    """Return the problems of a job whose fields have the right types; empty if it can run.

    The size of the job comes first, the pod template last.
    """
    found = [*resource_problems(job), *(problem for part in PARTS for problem in part.problems(job.spec))]
    return sorted(found, key=_position)


def _position(problem: Problem) -> int:
    if problem.field.startswith(_LAST):
        return len(_FIRST) + 1
    return next((place for place, field in enumerate(_FIRST) if problem.field.startswith(field)), len(_FIRST))
