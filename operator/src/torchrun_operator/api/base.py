"""The base class of all API models, and their timestamps."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer
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


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CUT = "…"


def cut(most: int) -> BeforeValidator:
    """Return a validator for text of others, of any length: what does not fit is cut off, and nothing moves a cursor.

    Use it beside max_length. Without it, a long message of a webhook or a container would make each pass fail.
    """

    def shorten(value: object) -> object:
        if not isinstance(value, str):
            return value
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value) if _CONTROL.search(value) else value
        return text if len(text) <= most else text[: most - len(_CUT)] + _CUT

    return BeforeValidator(shorten)


Time = Annotated[
    datetime, AfterValidator(_whole_seconds_utc), PlainSerializer(rfc3339, return_type=str, when_used="json")
]
"""A moment in UTC with a resolution of one second."""
