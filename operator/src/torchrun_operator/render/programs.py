"""The programs that run in the pods of a job, and where the pods find them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

PROGRAMS_VOLUME: Final = "torchrun-operator"
RENDEZVOUS_PROGRAM: Final = "rendezvous.pyz"
LAUNCHER_PROGRAM: Final = "launcher.pyz"
TRANSFER_PROGRAM: Final = "transfer.pyz"


@dataclass(frozen=True)
class Programs:
    """The programs that run in the pods of a job, as executable zip archives."""

    rendezvous: bytes
    """Runs in the rendezvous pod."""
    launcher: bytes
    """Runs in the node pods of a job with warm starts."""
    transfer: bytes
    """Fetches inputs in node pods, and uploads outputs in a pod of its own."""

    @cached_property
    def encoded(self) -> Mapping[str, str]:
        """The programs in base64, by file name. They are the same for all jobs, and every pass over a job asks."""
        programs = {
            RENDEZVOUS_PROGRAM: self.rendezvous,
            LAUNCHER_PROGRAM: self.launcher,
            TRANSFER_PROGRAM: self.transfer,
        }
        return {name: base64.b64encode(program).decode() for name, program in programs.items()}
