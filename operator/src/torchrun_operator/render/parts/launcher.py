"""Warm starts: torchrun starts workers with the launcher, which forks them from a process that has torch loaded."""

import copy
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from torchrun_operator.api import remedies
from torchrun_operator.api.names import WORKER_PYTHON, rendezvous_name
from torchrun_operator.api.torchrun import program_of
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece
from torchrun_operator.render.programs import LAUNCHER_PROGRAM, PROGRAMS_DIRECTORY, PROGRAMS_VOLUME

_LAUNCHER: Final = f"{PROGRAMS_DIRECTORY}/python"
"""torchrun starts this program instead of Python."""
_EXECUTABLE: Final = 0o555


def _node(job: TorchrunJob, _: int) -> Piece:
    elasticity = job.spec.elasticity
    if not elasticity.warm_start:
        return Piece()
    env = [{"name": WORKER_PYTHON, "value": _LAUNCHER}]
    if elasticity.preload:
        env.append({"name": "TORCHRUN_PRELOAD", "value": ",".join(elasticity.preload)})
    items = [{"key": LAUNCHER_PROGRAM, "path": PurePosixPath(_LAUNCHER).name, "mode": _EXECUTABLE}]
    source = {"name": rendezvous_name(job.metadata.name), "items": items}
    return Piece(
        env=tuple(env),
        volumes=({"name": PROGRAMS_VOLUME, "configMap": source},),
        mounts=({"name": PROGRAMS_VOLUME, "mountPath": PROGRAMS_DIRECTORY, "readOnly": True},),
        container_fields=_prestart(job.spec.trainer),
    )


def _prestart(trainer: dict[str, Any]) -> dict[str, Any]:
    """Return the hook that loads torch before the first workers start, which in a spare is when it takes over.

    Only where the command is torchrun itself: a shell line may install packages first. A hook of the user is kept.
    """
    program = program_of([*(trainer.get("command") or []), *(trainer.get("args") or [])])
    lifecycle = copy.deepcopy(trainer.get("lifecycle") or {})
    if program is None or "postStart" in lifecycle:
        return {}
    command = ["python3", _LAUNCHER, "--start", program]
    return {"lifecycle": {**lifecycle, "postStart": {"exec": {"command": command}}}}


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    elasticity = spec.elasticity
    if elasticity.preload and not elasticity.warm_start:
        yield Problem("spec.elasticity.preload", remedies.PRELOAD)
    if elasticity.warm_start and any(e.get("name") == WORKER_PYTHON for e in spec.trainer.get("env") or []):
        yield Problem("spec.elasticity.warmStart", remedies.WORKER_PYTHON_TAKEN)


PART = Part(node=_node, problems=_problems)
