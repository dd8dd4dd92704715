"""The lead, which is node 0: what differs in it, and whether its success completes the job."""

from collections.abc import Mapping
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

    def trainer(self, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trainer container of node 0, from that of the template. They share what does not differ."""
        own = {variable["name"] for variable in self.env}
        kept = [variable for variable in template.get("env") or () if variable["name"] not in own]
        return {
            **template,
            **({"env": [*kept, *self.env]} if self.env else {}),
            **({"command": [*self.command], "args": []} if self.command is not None else {}),
            **({"args": [*self.args]} if self.args is not None else {}),
            **({"resources": self.resources} if self.resources is not None else {}),
        }
