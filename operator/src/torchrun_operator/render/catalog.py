"""All features of rendering, in the order in which objects, variables and volumes appear in manifests."""

from typing import Final

from torchrun_operator.render.part import Part
from torchrun_operator.render.parts import (
    faulthandler,
    files,
    inputs,
    launcher,
    lead,
    nccl,
    network,
    outputs,
    per_step,
    programs,
    rendezvous,
    services,
    snapshots,
    static,
    template,
    wiring,
)

PARTS: Final[tuple[Part, ...]] = (
    network.PART,
    services.PART,
    programs.PART,
    template.PART,
    wiring.PART,
    per_step.PART,
    static.PART,
    lead.PART,
    rendezvous.PART,
    files.PART,
    snapshots.PART,
    inputs.PART,
    outputs.PART,
    launcher.PART,
    faulthandler.PART,
    nccl.PART,
)
