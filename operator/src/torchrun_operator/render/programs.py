"""The programs that run in the pods of a job, and where the pods find them."""

from dataclasses import dataclass
from typing import Final

PROGRAMS_VOLUME: Final = "torchrun-operator"
PROGRAMS_DIRECTORY: Final = "/torchrun-operator"
RENDEZVOUS_PROGRAM: Final = "rendezvous.pyz"
LAUNCHER_PROGRAM: Final = "launcher.pyz"


@dataclass(frozen=True)
class Programs:
    """The programs that run in the pods of a job, as executable zip archives."""

    rendezvous: bytes
    """Runs in the rendezvous pod."""
    launcher: bytes
    """Runs in the node pods of a job with warm starts."""
