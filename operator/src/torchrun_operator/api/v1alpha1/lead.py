"""The lead, which is node 0: what differs in it, and whether its success completes the job."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from torchrun_operator.api.base import Model


class CompletionPolicy(StrEnum):
    """Whose success completes the job."""

    ALL_NODES = "AllNodes"
    LEAD = "Lead"


class Lead(Model):
    """What differs in node 0, the lead."""

    command: Annotated[
        tuple[Annotated[str, Field(max_length=65536)], ...] | None,
        Field(
            description="The command of the trainer container of node 0, with args in place of those of the template. "
            "Example: [torchrun, /workspace/prepare_and_train.py].",
            max_length=256,
        ),
    ] = None
    args: Annotated[
        tuple[Annotated[str, Field(max_length=65536)], ...] | None,
        Field(description="The args of the trainer container of node 0. Example: [--upload].", max_length=256),
    ] = None
    env: Annotated[
        tuple[dict[str, Any], ...],
        Field(
            description="Environment variables of the trainer container of node 0, in addition to those of the "
            "template. They replace variables with the same names."
        ),
    ] = ()
    resources: Annotated[
        dict[str, Any] | None,
        Field(description="The resources of the trainer container of node 0, in place of those of the template."),
    ] = None
