"""The pod of a node: the user's template and what the parts add to it."""

import copy

from torchrun_operator.api.lead import LeadPod
from torchrun_operator.api.names import ANNOTATION_LEAD_ADDRESS, ANNOTATION_LEAD_UID, TRAINER_CONTAINER, node_name
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Manifest, Piece, total


def node_pod(job: TorchrunJob, index: int, name: str = "", lead: LeadPod | None = None) -> Manifest:
    """Return the pod of the node with that index. Without ``name``, it has the usual one.

    ``lead``: the lead that the node starts with, if it is one of a static job and not the lead itself.
    """
    usual = node_name(job.metadata.name, index)
    name = name or usual
    piece = total([*(part.node(job, index) for part in PARTS), _knowing(lead)])
    spec = copy.deepcopy(job.spec.template["spec"])
    trainer = next(c for c in spec["containers"] if c["name"] == TRAINER_CONTAINER)
    trainer.update(copy.deepcopy(job.spec.trainer_of(index)))
    piece.add_to(spec, trainer)
    if lead is not None:
        alias = {"ip": lead.address, "hostnames": [node_name(job.metadata.name, 0)]}
        spec["hostAliases"] = [*(spec.get("hostAliases") or []), alias]
    spec["hostname"] = usual if job.spec.static else name  # MASTER_ADDR is the usual name of the lead
    metadata = owned_metadata(
        job,
        name,
        labels=piece.labels,
        annotations=piece.annotations,
        given=job.spec.template.get("metadata"),
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _knowing(lead: LeadPod | None) -> Piece:
    """Return the annotations of a pod that starts with that lead."""
    if lead is None:
        return Piece()
    return Piece(annotations={ANNOTATION_LEAD_UID: lead.uid, ANNOTATION_LEAD_ADDRESS: lead.address})
