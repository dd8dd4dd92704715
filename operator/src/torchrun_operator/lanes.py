"""A limit for each namespace, so that one whose requests hang does not delay the others."""

import asyncio
from weakref import WeakValueDictionary


class Lanes:
    """A semaphore for each name. Names that are not in use take no memory."""

    def __init__(self, width: int) -> None:
        """Let `width` users of each name in at the same time."""
        self._width = width
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Semaphore:
        """Return the semaphore of that name, for `async with`."""
        return self._lanes.setdefault(name, asyncio.Semaphore(self._width))
