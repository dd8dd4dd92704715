"""The running operator: it starts all parts, and stops after a signal or when a part ends for good."""

import asyncio
import logging
import signal

from torchrun_operator.process.rotation import Rotation, rotation
from torchrun_operator.process.supervision import supervise
from torchrun_operator.process.wiring import operator
from torchrun_operator.settings import Settings

_logger = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, or until a file of the pod changes that is only read at the start.

    Return the exit status: 0, or 1 if a part has ended by itself.
    """
    stop = asyncio.Event()
    files = rotation(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with operator(settings) as parts:
        rotating = asyncio.create_task(_stop_once_rotated(files, stop), name="rotation")
        try:
            return await supervise(stop, parts.queue, [parts.worker()], parts.others())
        finally:
            rotating.cancel()


async def _stop_once_rotated(files: Rotation, stop: asyncio.Event) -> None:
    _logger.warning("%s has changed: the operator starts again", await files.wait())
    stop.set()
