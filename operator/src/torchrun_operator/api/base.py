"""The base class of all API models, and their timestamps."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen value with snake_case attributes and camelCase keys in JSON. Unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def wire(self) -> dict[str, Any]:
        """Return the JSON that the Kubernetes API accepts, without fields that have no value."""
        return self.model_dump(mode="json", exclude_none=True)


class TolerantModel(Model):
    """A model of what the cluster wrote. Reading ignores fields of newer versions."""

    model_config = ConfigDict(extra="ignore")


def _whole_seconds_utc(moment: datetime) -> datetime:
    """Round down to the resolution of metav1.Time, so that a written value equals the value read back."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """Format a moment as Kubernetes does: UTC, whole seconds, ``2026-01-31T12:00:00Z``."""
    return _whole_seconds_utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    datetime, AfterValidator(_whole_seconds_utc), PlainSerializer(rfc3339, return_type=str, when_used="json")
]
"""A moment in UTC with a resolution of one second."""
