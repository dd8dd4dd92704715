"""A whole TorchrunJob, as read from the API server."""

from typing import Annotated, Any

from pydantic import Field

from torchrun_operator.api.base import Time, TolerantModel
from torchrun_operator.api.names import API_VERSION, KIND
from torchrun_operator.api.v1alpha1.spec import TorchrunJobSpec
from torchrun_operator.api.v1alpha1.status import TorchrunJobStatus


class ObjectMeta(TolerantModel):
    """The part of an object's metadata that the operator reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    annotations: Annotated[dict[str, str], Field(default_factory=dict)]


class TorchrunJob(TolerantModel):
    """A TorchrunJob trains a model with torchrun on one or more nodes."""

    api_version: str = API_VERSION
    kind: str = KIND
    metadata: ObjectMeta
    spec: TorchrunJobSpec
    status: Annotated[TorchrunJobStatus, Field(default_factory=TorchrunJobStatus)]

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        """The uid of the job, which is also its rendezvous id."""
        return self.metadata.uid

    @property
    def changed(self) -> bool:
        """Whether its spec has changed since it was created. Only then may there be objects of an earlier spec."""
        return self.metadata.generation > 1


def job_of(raw: dict[str, Any]) -> TorchrunJob:
    """Read a job. Raises pydantic.ValidationError; :func:`validation.readable` formats it."""
    return TorchrunJob.model_validate(raw)


def spec_of(raw: dict[str, Any]) -> TorchrunJobSpec:
    """Read the spec of a job. Raises pydantic.ValidationError; :func:`validation.readable` formats it."""
    return TorchrunJobSpec.model_validate(raw.get("spec", {}))


def status_of(raw: dict[str, Any]) -> TorchrunJobStatus:
    """Read the status of a job; the default one if the job has none yet."""
    return TorchrunJobStatus.model_validate(raw.get("status") or {})
