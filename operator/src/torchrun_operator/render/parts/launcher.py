"""Warm starts: torchrun starts workers with the launcher, which forks them from a process that has torch loaded."""

import copy
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from torchrun_operator.api import remedies
from torchrun_operator.api.launching import LAUNCHER, launched
from torchrun_operator.api.names import PROGRAMS_DIRECTORY, WORKER_PYTHON, rendezvous_name
from torchrun_operator.api.torchrun import program_of
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.part import Part, Piece
from torchrun_operator.render.programs import LAUNCHER_PROGRAM, PROGRAMS_VOLUME

_EXECUTABLE: Final = 0o555


def _node(job: TorchrunJob, index: int) -> Piece:
    if not job.spec.starts_warm(index):
        return Piece()
    env = [{"name": WORKER_PYTHON, "value": LAUNCHER}]
    if job.spec.elasticity.preload:
        env.append({"name": "TORCHRUN_PRELOAD", "value": ",".join(job.spec.elasticity.preload)})
    items = [{"key": LAUNCHER_PROGRAM, "path": PurePosixPath(LAUNCHER).name, "mode": _EXECUTABLE}]
    source = {"name": rendezvous_name(job.metadata.name), "items": items}
    return Piece(
        env=tuple(env),
        volumes=({"name": PROGRAMS_VOLUME, "configMap": source},),
        mounts=({"name": PROGRAMS_VOLUME, "mountPath": PROGRAMS_DIRECTORY, "readOnly": True},),
        container_fields=_start(job.spec, index),
    )


def _start(spec: TorchrunJobSpec, index: int) -> dict[str, Any]:
    """Return what loads torch before the first workers start.

    Where the command starts torchrun, the launcher comes first and forks it. Where the image names a program that comes
    before torchrun, only a hook can load torch ahead, beside torchrun's agent, which does so too. That pays in a job
    with spares alone: their workers start later. A hook of the user stays.
    """
    trainer = spec.trainer_of(index)
    by_launcher = launched(trainer, search=_names_python(spec))
    if by_launcher is not None:
        return dict(by_launcher)
    program = program_of(trainer.get("args") or [])
    lifecycle = copy.deepcopy(trainer.get("lifecycle") or {})
    if program is None or trainer.get("command") or "postStart" in lifecycle or not spec.elasticity.spares:
        return {}
    hook = {"exec": {"command": [LAUNCHER, "--start", program]}}
    return {"lifecycle": {**lifecycle, "postStart": hook}}


def _names_python(spec: TorchrunJobSpec) -> bool:
    """Whether the rendezvous pod starts with another Python or image: there may be no `python3` in PATH of a node."""
    given = (spec.rendezvous.template or {}).get("spec") or {}
    return any(container.get("command") or container.get("image") for container in given.get("containers") or ())


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.elasticity.preload and not spec.elasticity.warm_start:
        yield Problem("spec.elasticity.preload", remedies.PRELOAD)


PART = Part(node=_node, problems=_problems)
