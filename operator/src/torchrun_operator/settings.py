"""What an administrator can choose for the operator: read once at start, from TORCHRUN_OPERATOR_* variables."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KEY_BYTES = 32
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Settings(BaseSettings):
    """Frozen settings; a wrong value raises pydantic's ValidationError, which names the variable's field."""

    model_config = SettingsConfigDict(env_prefix="TORCHRUN_OPERATOR_", env_ignore_empty=True, frozen=True)

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Namespaces whose jobs are looked after, separated by commas; empty means all."
    )
    workers: int = Field(default=16, ge=1, le=256, description="Jobs reconciled at the same time.")
    resync_seconds: FiniteFloat = Field(
        default=300, ge=1, description="Every job is looked at again after this time, even if nothing was heard of it."
    )
    min_reconcile_interval: FiniteFloat = Field(
        default=0.2, ge=0, le=60, description="Seconds between two reconciles of one job: wake-ups in between are one."
    )
    progress_interval: FiniteFloat = Field(
        default=5, ge=1, description="Seconds between two writes of a job's status that report nothing but progress."
    )
    namespace: str | None = Field(
        default=None,
        description="Namespace of the operator's own pod, from where network policies let it in to rendezvous hosts. "
        "If unset, their control port is left open to all pods; it takes orders only with the job's token.",
    )
    stuck_seconds: FiniteFloat = Field(
        default=120, ge=1, description="A reconcile that takes longer makes the liveness probe fail."
    )
    http_host: str | None = Field(
        default=None, description="Address that probes and metrics are served on; every interface if unset."
    )
    http_port: int = Field(default=8080, ge=0, le=65535, description="Port of probes and metrics; 0 picks a free one.")
    key_file: Path = Field(
        default=Path("/etc/torchrun-operator/rendezvous/key"),
        description="File of at least 32 random bytes that the tokens of the jobs' rendezvous hosts are made from.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level that is written."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="One JSON object a line, or text for people."
    )

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(name for part in value.split(",") if (name := part.strip())))
        return value

    @field_validator("watch_namespaces", "namespace")
    @classmethod
    def _are_namespaces(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        for name in (value,) if isinstance(value, str) else value or ():
            if not _NAMESPACE.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name of a namespace: lower-case letters, digits and '-' only, no patterns"
                )
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    def read_key(self) -> bytes:
        """Return the bytes of `key_file`, as they are; OSError if it cannot be read, ValueError if it is too short."""
        key = self.key_file.read_bytes()
        if len(key) < KEY_BYTES:
            raise ValueError(f"{self.key_file} holds {len(key)} bytes: at least {KEY_BYTES} random bytes are needed")
        return key
