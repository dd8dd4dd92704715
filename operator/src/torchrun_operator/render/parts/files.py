"""Inline files: a ConfigMap, mounted file by file."""

from collections.abc import Iterator

from torchrun_operator.api import remedies
from torchrun_operator.api.names import MAX_FILES_BYTES, files_name
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Installation, Manifest, Part, Piece
from torchrun_operator.render.paths import is_clean, is_inside, is_reserved

_VOLUME = "torchrun-files"


def _key(position: int) -> str:
    """Return the ConfigMap key of the file at this position of spec.files. Paths are not valid keys."""
    return f"file-{position}"


def _config_map(job: TorchrunJob, _: Installation) -> Iterator[Manifest]:
    if job.spec.files:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owned_metadata(job, files_name(job.metadata.name)),
            "data": {_key(position): file.content for position, file in enumerate(job.spec.files)},
        }


def _node(job: TorchrunJob, _: int) -> Piece:
    if not job.spec.files:
        return Piece()
    return Piece(
        volumes=({"name": _VOLUME, "configMap": {"name": files_name(job.metadata.name)}},),
        # One by one: a mounted directory would hide the files that the image has there.
        mounts=tuple(
            {"name": _VOLUME, "mountPath": file.path, "subPath": _key(position), "readOnly": True}
            for position, file in enumerate(job.spec.files)
        ),
    )


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    paths = [file.path for file in spec.files]
    size = sum(len(file.content.encode()) for file in spec.files)
    if size > MAX_FILES_BYTES:
        yield Problem("spec.files", f"{remedies.FILES_TOO_LARGE}; they have {size // 1024} KiB")
    for index, path in enumerate(paths):
        field = f"spec.files[{index}].path"
        if not is_clean(path):
            yield Problem(field, remedies.FILE_PATH)
        elif is_reserved(path):
            yield Problem(field, remedies.FILE_PATH_RESERVED)
        if path in paths[:index]:
            yield Problem(field, f"two files have the path {path}; change one of them")
        if any(is_inside(path, other) for other in paths):
            yield Problem(field, remedies.FILE_INSIDE_FILE)
    mounted = {mount.get("mountPath") for mount in spec.trainer.get("volumeMounts") or []}
    if mounted.intersection(paths):
        yield Problem("spec.files", remedies.FILE_ON_MOUNT)


PART = Part(prerequisites=_config_map, node=_node, problems=_problems)
