"""Settings: defaults, every variable, and invalid values."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from torchrun_operator.settings import Settings

DEFAULTS: dict[str, Any] = {
    "watch_namespaces": (),
    "workers": 16,
    "resync_seconds": 300.0,
    "min_reconcile_interval": 0.2,
    "progress_interval": 5.0,
    "namespace": None,
    "stuck_seconds": 120.0,
    "http_host": None,
    "http_port": 8080,
    "key_file": Path("/etc/torchrun-operator/rendezvous/key"),
    "log_level": "INFO",
    "log_format": "json",
}


@pytest.mark.parametrize(
    ("env", "changed"),
    [
        ({}, {}),
        ({"WATCH_NAMESPACES": ""}, {}),
        ({"WATCH_NAMESPACES": " a, b-2 ,a,"}, {"watch_namespaces": ("a", "b-2")}),
        ({"WORKERS": "1", "HTTP_PORT": "0"}, {"workers": 1, "http_port": 0}),
        ({"RESYNC_SECONDS": "1e+06", "STUCK_SECONDS": "30"}, {"resync_seconds": 1e6, "stuck_seconds": 30.0}),
        (
            {"MIN_RECONCILE_INTERVAL": "0", "PROGRESS_INTERVAL": "2.5"},
            {"min_reconcile_interval": 0.0, "progress_interval": 2.5},
        ),
        ({"HTTP_HOST": "127.0.0.1", "KEY_FILE": "/k"}, {"http_host": "127.0.0.1", "key_file": Path("/k")}),
        ({"NAMESPACE": "torchrun-system"}, {"namespace": "torchrun-system"}),
        ({"LOG_LEVEL": "debug", "LOG_FORMAT": "text"}, {"log_level": "DEBUG", "log_format": "text"}),
    ],
)
def test_variables_become_settings(
    env: dict[str, str], changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(f"TORCHRUN_OPERATOR_{name}", value)
    assert Settings().model_dump() == DEFAULTS | changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WATCH_NAMESPACES", "team-*"),
        ("WATCH_NAMESPACES", "A"),
        ("WATCH_NAMESPACES", "-a"),
        ("WATCH_NAMESPACES", "a" * 64),
        ("NAMESPACE", "A"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("WORKERS", "257"),
        ("RESYNC_SECONDS", "0"),
        ("RESYNC_SECONDS", "nan"),
        ("MIN_RECONCILE_INTERVAL", "-1"),
        ("PROGRESS_INTERVAL", "0"),
        ("STUCK_SECONDS", "inf"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "tcp://10.0.0.1:8080"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TORCHRUN_OPERATOR_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings(), "workers", 3)  # noqa: B010 - as an assignment mypy refuses it too


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("key", [bytes(range(32)), b"\n" * 32, b"x" * 100])
def test_the_key_is_read_as_it_is(key: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(key)
    assert Settings(key_file=path).read_key() == key


def test_a_missing_or_short_key_is_an_error(tmp_path: Path) -> None:
    settings = Settings(key_file=tmp_path / "key")
    with pytest.raises(OSError, match="key"):
        settings.read_key()
    settings.key_file.write_bytes(b"x" * 31)
    with pytest.raises(ValueError, match="31 bytes; write at least 32"):
        settings.read_key()
