"""Settings of the collective communication library."""

import re
from collections.abc import Iterator

from torchrun_operator.api.names import ALLOWED_NCCL_PREFIXES, TRAINER_CONTAINER
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece


def _node(job: TorchrunJob, _: int) -> Piece:
    nccl = job.spec.nccl
    reference = () if nccl.config_map_ref is None else ({"configMapRef": {"name": nccl.config_map_ref.name}},)
    return Piece(
        env=tuple({"name": name, "value": value} for name, value in sorted(nccl.env.items())),
        env_from=reference,
    )


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    allowed = re.compile(f"({'|'.join(ALLOWED_NCCL_PREFIXES)})_[A-Z0-9_]+")
    for name in spec.nccl.env:
        if not allowed.fullmatch(name):
            yield Problem(
                "spec.nccl.env",
                f"{name} does not start with {'_, '.join(ALLOWED_NCCL_PREFIXES)}_; move it to the env of the container "
                f"{TRAINER_CONTAINER}",
            )


PART = Part(node=_node, problems=_problems)
