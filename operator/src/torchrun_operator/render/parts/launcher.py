"""Warm starts: torchrun starts workers with the launcher, which forks them from a process that has torch loaded."""

import copy
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from torchrun_operator.api import remedies
from torchrun_operator.api.names import WORKER_PYTHON, rendezvous_name
from torchrun_operator.api.torchrun import program_of, python_of
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece
from torchrun_operator.render.programs import LAUNCHER_PROGRAM, PROGRAMS_DIRECTORY, PROGRAMS_VOLUME

_LAUNCHER: Final = f"{PROGRAMS_DIRECTORY}/python"
"""torchrun starts this program instead of Python."""
_EXECUTABLE: Final = 0o555


def _node(job: TorchrunJob, index: int) -> Piece:
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
        container_fields=_start(job.spec, index),
    )


def _start(spec: TorchrunJobSpec, index: int) -> dict[str, Any]:
    """Return what loads torch before the first workers start, which in a spare is when it takes over.

    Only where the command is torchrun itself: a shell line may install packages first. The launcher then is the first
    process. Where the image names a program that comes before torchrun, a hook loads torch, unless the user has one.
    """
    trainer = spec.trainer_of(index)
    command, args = trainer.get("command") or [], trainer.get("args") or []
    if spec.starts_by_launcher(index):
        return {"command": [python_of([*command, *args]), _LAUNCHER, "--first", *command]}
    program = program_of([*command, *args])
    if program is None:
        return {}
    lifecycle = copy.deepcopy(trainer.get("lifecycle") or {})
    hook = {"exec": {"command": [python_of(args), _LAUNCHER, "--start", program]}}
    return {} if "postStart" in lifecycle else {"lifecycle": {**lifecycle, "postStart": hook}}


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    elasticity = spec.elasticity
    if elasticity.preload and not elasticity.warm_start:
        yield Problem("spec.elasticity.preload", remedies.PRELOAD)
    if elasticity.warm_start and any(e.get("name") == WORKER_PYTHON for e in spec.trainer.get("env") or []):
        yield Problem("spec.elasticity.warmStart", remedies.WORKER_PYTHON_TAKEN)


PART = Part(node=_node, problems=_problems)
