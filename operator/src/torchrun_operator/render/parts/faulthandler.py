"""Python's faulthandler: a worker that crashes in native code prints its stack."""

from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.part import Part, Piece

_VARIABLE = "PYTHONFAULTHANDLER"


def _node(job: TorchrunJob, _: int) -> Piece:
    """Switch it on, unless the user sets the variable."""
    given = {variable.get("name") for variable in job.spec.trainer.get("env") or ()}
    return Piece() if _VARIABLE in given else Piece(env=({"name": _VARIABLE, "value": "1"},))


PART = Part(node=_node)
