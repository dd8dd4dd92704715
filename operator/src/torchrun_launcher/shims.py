"""Lets torchrun's agent start each worker's shim with its own Python: an image may have no other, and no shell."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from torchrun_launcher import ARCHIVE

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from typing import Any


def install() -> None:
    """Put the Python of this process before the launcher where torchrun starts workers."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler  # noqa: PLC0415

    handler: Any = subprocess_handler
    old = not hasattr(handler, "Popen")  # torch before 2.8 names the module
    opened = handler.subprocess.Popen if old else handler.Popen

    def started(*, args: tuple[str, ...], **options: object) -> object:
        return opened(args=(sys.executable, *args) if args[0] == ARCHIVE else args, **options)

    if old:
        handler.subprocess = SimpleNamespace(Popen=started)
    else:
        handler.Popen = started
