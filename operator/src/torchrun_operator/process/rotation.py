"""Rotated files: the operator reads its key and the cluster's certificates once, and ends when they change."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torchrun_operator.settings import Settings

_logger = logging.getLogger(__name__)

_PERIOD_SECONDS = 10.0
_CERTIFICATES = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")

Read = Callable[[], bytes]
"""Returns the content of a file. Raises OSError or ValueError if there is none that the operator could use."""


class Rotation:
    """What the files contained before the operator read them.

    The kubelet replaces mounted files in place, so the next process of the container reads the new content.
    """

    def __init__(self, files: Mapping[str, Read]) -> None:
        self._files = files
        self._before = {name: content for name, read in files.items() if (content := _content(read)) is not None}

    async def wait(self) -> str:
        """Return the name of the first file with another content. Files that become unusable are reported once."""
        unusable: set[str] = set()
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            for name, before in self._before.items():
                now = _content(self._files[name])
                if now is not None and now != before:
                    return name
                if now is None and name not in unusable:
                    _logger.warning("%s cannot be used any more: the operator continues with the former one", name)
                unusable = unusable | {name} if now is None else unusable - {name}


def rotation(settings: Settings) -> Rotation:
    """Return the present content of the files of this pod."""
    return Rotation({"the rendezvous key": settings.read_key, "the cluster's certificate": _CERTIFICATES.read_bytes})


def _content(read: Read) -> bytes | None:
    try:
        return read()
    except (OSError, ValueError):
        return None
