"""Metadata of the objects that a job owns."""

from collections.abc import Mapping
from typing import Any

from torchrun_operator.api.names import API_VERSION, KIND, LABEL_JOB_NAME, LABEL_MANAGED_BY, MANAGED_BY
from torchrun_operator.api.v1alpha1 import TorchrunJob


def owned_metadata(
    job: TorchrunJob,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return metadata of an object that is deleted with the job.

    `given` is metadata of the user. Its labels and annotations are kept, unless the operator sets the same ones.
    """
    given = given or {}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {
            **(given.get("labels") or {}),
            LABEL_JOB_NAME: job.metadata.name,
            LABEL_MANAGED_BY: MANAGED_BY,
            **(labels or {}),
        },
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if all_annotations := {**(given.get("annotations") or {}), **(annotations or {})}:
        metadata["annotations"] = all_annotations
    return metadata
