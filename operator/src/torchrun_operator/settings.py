"""The settings of the operator. It reads them once, at the start, from TORCHRUN_OPERATOR_* variables."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KEY_BYTES = 32
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Settings(BaseSettings):
    """The settings, frozen. An invalid value raises pydantic's ValidationError, which names the field."""

    model_config = SettingsConfigDict(env_prefix="TORCHRUN_OPERATOR_", env_ignore_empty=True, frozen=True)

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Namespaces whose jobs the operator runs, separated by commas. Empty: all namespaces."
    )
    workers: int = Field(default=16, ge=1, le=256, description="Jobs of one namespace reconciled at the same time.")
    resync_seconds: FiniteFloat = Field(
        default=300, ge=1, description="Seconds after which the operator reconciles a job even if nothing has changed."
    )
    min_reconcile_interval: FiniteFloat = Field(
        default=0.2, ge=0, le=60, description="Minimum seconds between two reconciles of a job."
    )
    progress_interval: FiniteFloat = Field(
        default=5, ge=1, description="Minimum seconds between two writes of a status if only the progress changes."
    )
    namespace: str | None = Field(
        default=None,
        description="Namespace of the operator's pod. Network policies allow it to connect to rendezvous hosts. "
        "If unset, all pods can connect to their control port, which accepts only the token of the job.",
    )
    stuck_seconds: FiniteFloat = Field(
        default=120, ge=1, description="Maximum seconds of a reconcile; beyond that the liveness probe fails."
    )
    http_host: str | None = Field(
        default=None, description="Address that serves probes and metrics. If unset: all interfaces."
    )
    http_port: int = Field(default=8080, ge=0, le=65535, description="Port of probes and metrics. 0: any free port.")
    key_file: Path = Field(
        default=Path("/etc/torchrun-operator/rendezvous/key"),
        description="File with at least 32 random bytes. The tokens of the rendezvous hosts derive from it.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Minimum level of the lines that the operator logs."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="json: one JSON object per line. text: lines for people."
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
                    f"{name!r} is not the name of a namespace: write lowercase letters, digits and '-', no patterns"
                )
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    def read_key(self) -> bytes:
        """Return the content of `key_file`. Raises OSError if it cannot be read, ValueError if it is too short."""
        key = self.key_file.read_bytes()
        if len(key) < KEY_BYTES:
            raise ValueError(f"{self.key_file} has {len(key)} bytes; write at least {KEY_BYTES} random bytes")
        return key
