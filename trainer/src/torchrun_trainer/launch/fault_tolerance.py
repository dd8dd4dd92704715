"""Settings: what the environment says about the replica groups of a job."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torchrun_trainer.launch.checks import LaunchError

_MODE = "TORCHRUN_FAULT_TOLERANCE"
_LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
_GROUP = "REPLICA_GROUP_ID"
_LEAST = "TORCHRUN_MIN_REPLICA_GROUPS"


@dataclass(frozen=True)
class Settings:
    """How a replica group finds the others.

    ``lighthouse`` is the URL of torchft's lighthouse, ``group`` the name of this group, and ``least`` the number of
    groups below which no step is committed.
    """

    lighthouse: str
    group: str
    least: int


def settings() -> Settings | None:
    """Return the settings; None unless ``TORCHRUN_FAULT_TOLERANCE`` is ``PerStep``.

    Raises LaunchError if a variable is missing or has no sense.
    """
    mode = os.environ.get(_MODE, "")
    if mode in ("", "Restart"):
        return None
    if mode != "PerStep":
        raise LaunchError(f"{_MODE} is {mode!r}: write Restart or PerStep")
    lighthouse, group = os.environ.get(_LIGHTHOUSE, ""), os.environ.get(_GROUP, "")
    if not lighthouse.startswith("http://"):
        raise LaunchError(f"{_LIGHTHOUSE} is {lighthouse!r}: write the URL of torchft's lighthouse, http://HOST:PORT")
    if not group:
        raise LaunchError(f"{_GROUP} is empty: write a name that no other replica group has")
    least = os.environ.get(_LEAST, "1")
    if not least.isdecimal() or int(least) < 1:
        raise LaunchError(f"{_LEAST} is {least!r}: write the number of groups that must be there, at least 1")
    return Settings(lighthouse, group, int(least))


def refuse(what: str) -> None:
    """Raise LaunchError if the job recovers step by step, which ``what`` cannot."""
    if settings() is not None:
        raise LaunchError(f"{_MODE} is PerStep, but {what} cannot recover without a restart: write Restart")
