"""Recovery step by step: each node is a replica group, and the rendezvous pod has torchft's lighthouse for them."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import PORT_LIGHTHOUSE, rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece


def _node(job: TorchrunJob, _: int) -> Piece:
    if not job.spec.per_step:
        return Piece()
    values = {
        "TORCHRUN_FAULT_TOLERANCE": job.spec.fault_tolerance.mode,
        "TORCHRUN_MIN_REPLICA_GROUPS": str(job.spec.min_nodes),
        "TORCHFT_LIGHTHOUSE": f"http://{rendezvous_name(job.metadata.name)}:{PORT_LIGHTHOUSE}",
        "REPLICA_GROUP_ID": "$(POD_NAME)",
    }
    return Piece(env=tuple({"name": name, "value": value} for name, value in values.items()))


def _rendezvous(job: TorchrunJob) -> Piece:
    if not job.spec.per_step:
        return Piece()
    values = {"RDZV_LIGHTHOUSE_PORT": str(PORT_LIGHTHOUSE), "RDZV_LIGHTHOUSE_GROUPS": str(job.spec.min_nodes)}
    return Piece(env=tuple({"name": name, "value": value} for name, value in values.items()))


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    field = "spec.faultTolerance.mode"
    if not spec.per_step:
        return
    if spec.static:
        yield Problem(field, remedies.PER_STEP_STATIC)
    elif not spec.outlives_host:
        yield Problem(field, remedies.PER_STEP_COMMAND)
    if spec.rendezvous.port == PORT_LIGHTHOUSE:
        yield Problem("spec.rendezvous.port", remedies.PER_STEP_PORT)


PART = Part(node=_node, rendezvous=_rendezvous, problems=_problems)
