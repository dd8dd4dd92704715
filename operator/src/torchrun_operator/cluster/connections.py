"""The sockets of one HTTP session, so that none of them outlives the event loop."""

import asyncio
import contextlib
import socket
import weakref

import aiohttp

_CLOSE_SECONDS = 1.0


class Connections:
    """Creates the sockets of an aiohttp connector, and closes those that the connector has left open.

    aiohttp closes the connection of a cancelled request with the end of TLS, which the peer must confirm. It does not
    wait for that, not even when the session is closed. If the event loop ends first, the socket stays open.
    """

    def __init__(self) -> None:
        """Knows no sockets yet."""
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def create(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for the address. For `aiohttp.TCPConnector(socket_factory=...)`."""
        family, kind, protocol, *_ = address
        created = socket.socket(family, kind, protocol)
        self._sockets.add(created)
        return created

    async def aclose(self) -> None:
        """Close all sockets. Call it in the event loop that uses them, after the session is closed."""
        left = self._open()
        for each in left:
            with contextlib.suppress(OSError):  # the peer has closed it
                each.shutdown(socket.SHUT_RDWR)
        # Their transports read the end, and close them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._open():  # noqa: ASYNC110 - a transport of asyncio does not notify
                    await asyncio.sleep(0)

    def _open(self) -> list[socket.socket]:
        return [each for each in self._sockets if each.fileno() != -1]
