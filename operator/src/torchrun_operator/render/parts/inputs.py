"""Inputs: init containers of the node pods fetch them, each onto a volume that the trainer mounts too."""

from collections.abc import Iterator
from typing import Any

from torchrun_operator.api import remedies
from torchrun_operator.api.names import INPUT_CONTAINER_PREFIX, INPUT_SCHEMES, node_name
from torchrun_operator.api.v1alpha1 import Input, TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.beside import chosen
from torchrun_operator.render.part import Manifest, Part, Piece, total
from torchrun_operator.render.paths import is_clean, is_reserved
from torchrun_operator.render.transfer import container, mounted, place, program_volume, scheme_of

_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def _node(job: TorchrunJob, index: int) -> Piece:
    if not job.spec.inputs:
        return Piece()
    pieces = [_piece(job, each, position, index) for position, each in enumerate(job.spec.inputs)]
    return Piece(volumes=(program_volume(job),)) + total(pieces)


def _piece(job: TorchrunJob, each: Input, position: int, index: int) -> Piece:
    name = f"{INPUT_CONTAINER_PREFIX}{position}"
    source = place(each.url, f"{name}-source", read_only=True)
    there = mounted(job.spec, each.path, job.metadata.name)
    own: Manifest = {"name": name, "mountPath": each.path}
    mount = there.mount if there is not None else own
    task = {"url": source.url, "path": each.path, "pod": node_name(job.metadata.name, index)}
    fetching = container(
        job,
        name,
        "fetch",
        task,
        secret=each.secret_ref,
        mounts=(mount, *source.mounts),
        resources=_resources(job.spec.trainer),
    )
    return Piece(
        volumes=(*source.volumes, *([{"name": name, "emptyDir": {}}] if there is None else [])),
        mounts=(own,) if there is None else (),
        init_containers=(fetching,),
    )


def _resources(trainer: dict[str, Any]) -> Manifest:
    """Return those of the trainer without devices: a pod needs the larger of both, so this costs nothing."""
    given = trainer.get("resources") or {}
    return {kind: found for kind in ("requests", "limits") if (found := chosen(given.get(kind) or {}, _RESOURCES))}


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    paths = [each.path for each in spec.inputs]
    files = {file.path for file in spec.files}
    for position, each in enumerate(spec.inputs):
        field = f"spec.inputs[{position}]"
        if scheme_of(each.url) not in INPUT_SCHEMES:
            yield Problem(f"{field}.url", remedies.INPUT_URL)
        if not is_clean(each.path):
            yield Problem(f"{field}.path", remedies.INPUT_PATH)
        elif is_reserved(each.path):
            yield Problem(f"{field}.path", remedies.INPUT_PATH_RESERVED)
        elif each.path in files:
            yield Problem(f"{field}.path", remedies.INPUT_ON_FILE)
        if each.path in paths[:position]:
            yield Problem(f"{field}.path", f"two inputs have the path {each.path}; change one of them")
        there = mounted(spec, each.path)
        if there is not None and there.mount.get("readOnly"):
            yield Problem(f"{field}.path", remedies.INPUT_READ_ONLY)
    yield from _container_problems(spec)


def _container_problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    names = {f"{INPUT_CONTAINER_PREFIX}{position}" for position in range(len(spec.inputs))}
    given = (spec.template.get("spec") or {}).get("initContainers") or []
    if names.intersection(each.get("name", "") for each in (*given, *spec.containers)):
        yield Problem("spec.template.spec.initContainers", remedies.INPUT_CONTAINER)


PART = Part(node=_node, problems=_problems)
