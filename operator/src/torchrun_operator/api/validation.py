"""Finds what is wrong with a job and explains the fix.

The rules in the CRD reject most of it at the API server. The checks here cover jobs that were stored before a rule
existed, and what CEL cannot express.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pydantic import ValidationError

from torchrun_operator.api import remedies
from torchrun_operator.api.names import (
    ALLOWED_NCCL_PREFIXES,
    GROUP,
    MAX_FILES_BYTES,
    MAX_JOB_NAME_LENGTH,
    MAX_NODES,
    MIN_PROGRESS_DEADLINE,
    PORT_HTTP,
    RESERVED_DIRECTORIES,
    RESERVED_PREFIX,
    RESERVED_RDZV_CONF,
    TERMINATION_LOG,
    TRAINER_CONTAINER,
    WORKER_PYTHON,
    is_reserved_env,
)
from torchrun_operator.api.torchrun import reserved_options
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec


class Problem(NamedTuple):
    """One problem of a job."""

    field: str
    """Path of the field, such as ``spec.nnodes``."""
    message: str
    """What is wrong, and the fix."""

    def __str__(self) -> str:
        """Format the problem as the API server does."""
        return f"{self.field}: {self.message}"


def problems_of(error: ValidationError, prefix: str = "") -> list[Problem]:
    """Turn the errors of pydantic into problems. ``prefix`` is the path of the object, such as ``spec``."""
    found = [
        Problem(_path(prefix, detail["loc"]), _sentence(detail["type"], detail["msg"])) for detail in error.errors()
    ]
    return list(dict.fromkeys(found))


def readable(error: ValidationError, prefix: str = "") -> str:
    """Format the errors of pydantic in one line. ``prefix`` is the path of the object, such as ``spec``."""
    return "; ".join(str(problem) for problem in problems_of(error, prefix))


def problems(job: TorchrunJob) -> list[Problem]:
    """Return the problems of a job whose fields have the right types; empty if it can run."""
    spec = job.spec
    return [
        *_name(job.name),
        *_replicas(spec),
        *_deadlines(spec),
        *_elasticity(spec),
        *_wiring(spec),
        *_files(spec),
        *_snapshots(spec),
        *_mounts(spec),
        *_template(spec),
        *_trainer(spec),
    ]


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _sentence(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return "unknown field; kubectl explain lists the known fields"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return message[0].lower() + message[1:]


def _name(name: str) -> Iterator[Problem]:
    if len(name) > MAX_JOB_NAME_LENGTH or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield Problem("metadata.name", remedies.JOB_NAME)


def _replicas(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.replicas is None:
        return
    if spec.replicas < 1:
        yield Problem("spec.replicas", remedies.REPLICAS_BELOW_ONE)
    elif not spec.min_nodes <= spec.replicas <= spec.max_nodes:
        words = f"must be from MIN to MAX of spec.nnodes, which is {spec.nnodes}; change this field or spec.nnodes"
        yield Problem("spec.replicas", words)


def _deadlines(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if 0 < (spec.progress_deadline_seconds or 0) < MIN_PROGRESS_DEADLINE:
        yield Problem("spec.progressDeadlineSeconds", remedies.PROGRESS_DEADLINE)


def _elasticity(spec: TorchrunJobSpec) -> Iterator[Problem]:
    elasticity = spec.elasticity
    if spec.max_nodes + elasticity.spares > MAX_NODES:
        yield Problem("spec.elasticity.spares", remedies.SPARES)
    if elasticity.preload and not elasticity.warm_start:
        yield Problem("spec.elasticity.preload", remedies.PRELOAD)
    if elasticity.warm_start and any(e.get("name") == WORKER_PYTHON for e in spec.trainer.get("env") or []):
        yield Problem("spec.elasticity.warmStart", remedies.WORKER_PYTHON_TAKEN)


def _wiring(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.rendezvous.port == PORT_HTTP:
        yield Problem("spec.rendezvous.port", remedies.CONTROL_PORT)
    for key, value in spec.rendezvous.conf.items():
        if key in RESERVED_RDZV_CONF:
            yield Problem("spec.rendezvous.conf", f"remove {key}: the operator sets it")
        elif not re.fullmatch("[a-z][a-z0-9_]*", key) or "," in value or "=" in value:
            yield Problem("spec.rendezvous.conf", remedies.RDZV_CONF)
    allowed = re.compile(f"({'|'.join(ALLOWED_NCCL_PREFIXES)})_[A-Z0-9_]+")
    for name in spec.nccl.env:
        if not allowed.fullmatch(name):
            yield Problem(
                "spec.nccl.env",
                f"{name} does not start with {'_, '.join(ALLOWED_NCCL_PREFIXES)}_; move it to the env of the container "
                f"{TRAINER_CONTAINER}",
            )


def _files(spec: TorchrunJobSpec) -> Iterator[Problem]:
    paths = [file.path for file in spec.files]
    size = sum(len(file.content.encode()) for file in spec.files)
    if size > MAX_FILES_BYTES:
        yield Problem("spec.files", f"{remedies.FILES_TOO_LARGE}; they have {size // 1024} KiB")
    for index, path in enumerate(paths):
        field = f"spec.files[{index}].path"
        if not _is_clean(path):
            yield Problem(field, remedies.FILE_PATH)
        elif _is_ours(path):
            yield Problem(field, remedies.FILE_PATH_RESERVED)
        if path in paths[:index]:
            yield Problem(field, f"two files have the path {path}; change one of them")
        if any(_is_inside(path, other) for other in paths):
            yield Problem(field, remedies.FILE_INSIDE_FILE)


def _snapshots(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.snapshots is None:
        return
    path, claim, template = spec.snapshots.mount_path, spec.snapshots.claim_name, spec.snapshots.volume_claim_template
    if claim is None and template is None:
        yield Problem("spec.snapshots", remedies.NO_CLAIM)
    elif claim is not None and template is not None:
        yield Problem("spec.snapshots", remedies.TWO_CLAIMS)
    if template is not None:
        yield from _claim(template.get("spec") or {})
    if not _is_clean(path):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH)
    elif _is_ours(path):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_RESERVED)


def _claim(claim: dict[str, Any]) -> Iterator[Problem]:
    field = "spec.snapshots.volumeClaimTemplate.spec"
    if not claim.get("accessModes"):
        yield Problem(f"{field}.accessModes", remedies.ACCESS_MODES)
    if "storage" not in ((claim.get("resources") or {}).get("requests") or {}):
        yield Problem(f"{field}.resources", remedies.STORAGE)


def _mounts(spec: TorchrunJobSpec) -> Iterator[Problem]:
    """Check that no two mounts of the trainer container overlap."""
    files = [file.path for file in spec.files]
    mounted = {mount.get("mountPath") for mount in spec.trainer.get("volumeMounts") or []}
    if mounted.intersection(files):
        yield Problem("spec.files", remedies.FILE_ON_MOUNT)
    if spec.snapshots is None:
        return
    path = spec.snapshots.mount_path
    if any(path == file or _is_inside(path, file) or _is_inside(file, path) for file in files):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_AND_FILE)
    if path in mounted:
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_TAKEN)


def _template(spec: TorchrunJobSpec) -> Iterator[Problem]:
    pod, metadata = spec.template.get("spec") or {}, spec.template.get("metadata") or {}
    field = "spec.template.spec"
    if pod.get("restartPolicy", "Never") != "Never":
        yield Problem(f"{field}.restartPolicy", remedies.RESTART_POLICY)
    for name in ("hostname", "hostnameOverride", "subdomain"):
        if name in pod:
            yield Problem(f"{field}.{name}", remedies.host_name(name))
    if pod.get("hostNetwork"):
        yield Problem(f"{field}.hostNetwork", remedies.HOST_NETWORK)
    for index, volume in enumerate(pod.get("volumes") or []):
        if volume.get("name", "").startswith(RESERVED_PREFIX):
            yield Problem(f"{field}.volumes[{index}].name", remedies.VOLUME_NAME)
    for kind in ("labels", "annotations"):
        if any(key.startswith(f"{GROUP}/") for key in metadata.get(kind) or {}):
            yield Problem(f"spec.template.metadata.{kind}", remedies.METADATA_KEY)


def _trainer(spec: TorchrunJobSpec) -> Iterator[Problem]:
    field = "spec.template.spec.containers"
    names = [container.get("name") for container in spec.containers]
    if names.count(TRAINER_CONTAINER) != 1:
        yield Problem(field, remedies.ONE_TRAINER)
        return
    trainer, field = spec.trainer, f"{field}[{names.index(TRAINER_CONTAINER)}]"
    for name in (variable.get("name", "") for variable in trainer.get("env") or []):
        if is_reserved_env(name):
            yield Problem(f"{field}.env", f"the operator or torchrun sets {name}; {remedies.RESERVED_ENV}")
    for option, instead in reserved_options([*(trainer.get("command") or []), *(trainer.get("args") or [])]):
        yield Problem(f"{field}.command", f"remove {option}: the operator sets it from {instead}")
    if trainer.get("terminationMessagePath", TERMINATION_LOG) != TERMINATION_LOG:
        yield Problem(f"{field}.terminationMessagePath", remedies.TERMINATION_PATH)
    if trainer.get("restartPolicy", "Never") != "Never":
        yield Problem(f"{field}.restartPolicy", remedies.RESTART_POLICY)
    for index, container in enumerate(spec.containers):
        if not container.get("image"):
            yield Problem(f"spec.template.spec.containers[{index}].image", remedies.IMAGE)


def _is_clean(path: str) -> bool:
    parts = path.split("/")
    return path.startswith("/") and not {"", ".", ".."}.intersection(parts[1:]) and ":" not in path


def _is_ours(path: str) -> bool:
    return PurePosixPath(path).parts[1] in RESERVED_DIRECTORIES


def _is_inside(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")
