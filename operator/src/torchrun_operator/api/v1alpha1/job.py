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
    """A job that trains with torchrun on several nodes."""

    api_version: str = API_VERSION
    kind: str = KIND
    metadata: ObjectMeta
    spec: TorchrunJobSpec
    status: Annotated[TorchrunJobStatus, Field(default_factory=TorchrunJobStatus)]

    @property
    def name(self) -> str:
        """The job's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        """The job's uid, which is also its rendezvous id."""
        return self.metadata.uid


def job_of(raw: dict[str, Any]) -> TorchrunJob:
    """Read a job; a pydantic ValidationError, see :func:`validation.readable`, says what is wrong."""
    return TorchrunJob.model_validate(raw)


def spec_of(raw: dict[str, Any]) -> TorchrunJobSpec:
    """Read a job's spec; a pydantic ValidationError, see :func:`validation.readable`, says what is wrong."""
    return TorchrunJobSpec.model_validate(raw.get("spec", {}))


def status_of(raw: dict[str, Any]) -> TorchrunJobStatus:
    """Read a job's status; a job that has none yet has the default one."""
    return TorchrunJobStatus.model_validate(raw.get("status") or {})
