"""The ConfigMap with the programs of the operator, and its mount in the rendezvous pod."""

from collections.abc import Iterator

from torchrun_operator.api.names import PROGRAMS_DIRECTORY, rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec
from torchrun_operator.render.metadata import owned_metadata
from torchrun_operator.render.part import Installation, Manifest, Part, Piece
from torchrun_operator.render.programs import (
    LAUNCHER_PROGRAM,
    PROGRAMS_VOLUME,
    RENDEZVOUS_PROGRAM,
    TRANSFER_PROGRAM,
)


def _mounted(spec: TorchrunJobSpec) -> list[str]:
    return [
        *([RENDEZVOUS_PROGRAM] if not spec.static else []),
        *([LAUNCHER_PROGRAM] if spec.elasticity.warm_start and not spec.static else []),
        *([TRANSFER_PROGRAM] if spec.inputs or spec.outputs else []),
    ]


def _config_map(job: TorchrunJob, installation: Installation) -> Iterator[Manifest]:
    if mounted := _mounted(job.spec):
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owned_metadata(job, rendezvous_name(job.metadata.name)),
            "binaryData": {name: installation.programs.encoded[name] for name in mounted},
        }


def _unwanted(job: TorchrunJob) -> Iterator[Manifest]:
    if job.changed and not _mounted(job.spec):
        yield {"kind": "ConfigMap", "metadata": owned_metadata(job, rendezvous_name(job.metadata.name))}


def _rendezvous(job: TorchrunJob) -> Piece:
    return Piece(
        volumes=({"name": PROGRAMS_VOLUME, "configMap": {"name": rendezvous_name(job.metadata.name)}},),
        mounts=({"name": PROGRAMS_VOLUME, "mountPath": PROGRAMS_DIRECTORY, "readOnly": True},),
    )


PART = Part(prerequisites=_config_map, rendezvous=_rendezvous, unwanted=_unwanted)
