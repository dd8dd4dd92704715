"""The pod of a node: the user's template and what the parts add to it."""

import copy

from torchrun_operator.api.names import TRAINER_CONTAINER, node_name
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.render.catalog import PARTS
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Manifest, total


def node_pod(job: TorchrunJob, index: int, name: str = "") -> Manifest:
    """Return the pod of the node with that index. Without ``name``, it has the usual one."""
    name = name or node_name(job.metadata.name, index)
    piece = total(part.node(job, index) for part in PARTS)
    spec = copy.deepcopy(job.spec.template["spec"])
    piece.add_to(spec, next(c for c in spec["containers"] if c["name"] == TRAINER_CONTAINER))
    spec["hostname"] = name
    metadata = owned_metadata(
        job,
        name,
        labels=piece.labels,
        annotations=piece.annotations,
        given=job.spec.template.get("metadata"),
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
