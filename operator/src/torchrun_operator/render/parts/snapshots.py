"""The volume for snapshots: an existing claim, or one that is created from a template."""

import copy
from collections.abc import Iterator
from typing import Any

from torchrun_operator.api import remedies
from torchrun_operator.api.names import snapshots_name
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.api.validation import Problem
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Manifest, Part, Piece
from torchrun_operator.render.paths import is_clean, is_inside, is_reserved

_VOLUME = "torchrun-snapshots"


def _claim(job: TorchrunJob) -> Iterator[Manifest]:
    """Return the claim as it is created. The user may expand it later, or change its labels."""
    if job.spec.snapshots is None or job.spec.snapshots.volume_claim_template is None:
        return
    template = copy.deepcopy(job.spec.snapshots.volume_claim_template)
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": owned_metadata(job, snapshots_name(job.metadata.name), given=template.get("metadata")),
        "spec": template.get("spec") or {},
    }


def _node(job: TorchrunJob, _: int) -> Piece:
    if job.spec.snapshots is None:
        return Piece()
    path = job.spec.snapshots.mount_path
    claim = job.spec.snapshots.claim_name or snapshots_name(job.metadata.name)
    return Piece(
        env=({"name": "TORCHRUN_SNAPSHOT_PATH", "value": path},),
        volumes=({"name": _VOLUME, "persistentVolumeClaim": {"claimName": claim}},),
        mounts=({"name": _VOLUME, "mountPath": path},),
    )


def _problems(spec: TorchrunJobSpec) -> Iterator[Problem]:
    if spec.snapshots is None:
        return
    path, claim, template = spec.snapshots.mount_path, spec.snapshots.claim_name, spec.snapshots.volume_claim_template
    if claim is None and template is None:
        yield Problem("spec.snapshots", remedies.NO_CLAIM)
    elif claim is not None and template is not None:
        yield Problem("spec.snapshots", remedies.TWO_CLAIMS)
    if template is not None:
        yield from _claim_problems(template.get("spec") or {})
    if not is_clean(path):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH)
    elif is_reserved(path):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_RESERVED)
    files = [file.path for file in spec.files]
    if any(path == file or is_inside(path, file) or is_inside(file, path) for file in files):
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_AND_FILE)
    if path in {mount.get("mountPath") for mount in spec.trainer.get("volumeMounts") or []}:
        yield Problem("spec.snapshots.mountPath", remedies.MOUNT_PATH_TAKEN)


def _claim_problems(claim: dict[str, Any]) -> Iterator[Problem]:
    field = "spec.snapshots.volumeClaimTemplate.spec"
    if not claim.get("accessModes"):
        yield Problem(f"{field}.accessModes", remedies.ACCESS_MODES)
    if "storage" not in ((claim.get("resources") or {}).get("requests") or {}):
        yield Problem(f"{field}.resources", remedies.STORAGE)


PART = Part(claims=_claim, node=_node, problems=_problems)
