"""The running operator: it starts all parts, and stops after a signal or when a part ends for good."""

import asyncio
import signal

from torchrun_operator.process.supervision import supervise
from torchrun_operator.process.wiring import operator
from torchrun_operator.settings import Settings


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Return the exit status: 0, or 1 if a part has ended by itself."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with operator(settings) as parts:
        return await supervise(stop, parts.queue, parts.workers(), parts.others())
