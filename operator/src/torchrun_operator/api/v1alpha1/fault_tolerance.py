"""What the other nodes do when one is lost or comes."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from torchrun_operator.api.base import Model


class FaultToleranceMode(StrEnum):
    """What the other nodes do when one is lost."""

    RESTART = "Restart"
    PER_STEP = "PerStep"


class FaultTolerance(Model):
    """What the other nodes do when one is lost or comes."""

    mode: Annotated[
        FaultToleranceMode,
        Field(
            description="Restart: the workers of all nodes start again, and continue from the last snapshot. PerStep, "
            "an early version: the workers of the other nodes go on, and do the step in which the node was lost "
            "again. Each node then is a torchrun world of its own, and the trainer library averages the gradients over "
            "all of them. It needs torchft in the image, a script that uses the library, and torchrun as the command."
        ),
    ] = FaultToleranceMode.RESTART
