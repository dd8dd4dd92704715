"""The connections to the store as the kernel reports them: which exist, and which acknowledge data."""

from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path

from torchrun_rendezvous.view import plain_address

PROBES = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 127),  # the most that Linux takes; as long as a silent node is remembered
)
LAST_ACKNOWLEDGED = 56
"""Offset of tcpi_last_ack_recv (milliseconds, 4 bytes) in struct tcp_info of linux/tcp.h."""
ESTABLISHED = "01"


def connected_peers(port: int, directory: str = "/proc/net") -> frozenset[str] | None:
    """Return the addresses with an established connection to the port. None: not available."""
    addresses = set()
    try:
        for table in ("tcp", "tcp6"):
            with Path(directory, table).open() as lines:
                for line in lines:
                    _, local, remote, state, *_ = line.split(maxsplit=4)
                    if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                        addresses.add(_kernel_address(remote.partition(":")[0]))
    except (OSError, ValueError):
        return None
    return frozenset(addresses)


def _kernel_address(text: str) -> str:
    """Return an address of /proc/net/tcp in the usual form. There it is hex, in words of the host's byte order."""
    words = bytes.fromhex(text)
    if sys.byteorder == "little":
        words = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    return plain_address(str(ipaddress.ip_address(words)))


def unanswered_seconds(port: int, directory: str = "/proc/self/fd") -> dict[str, float] | None:
    """Return the seconds since each address that is connected to this process's port acknowledged data.

    From then on, idle connections are probed every second, with a limit that ends no connection earlier than otherwise.
    None: not available.
    """
    found: dict[str, float] = {}
    try:
        descriptors = [int(entry.name) for entry in Path(directory).iterdir()]
    except (OSError, ValueError):
        return None
    for descriptor in descriptors:
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            continue  # it is no socket, or was closed just now
        try:
            peer, seconds = _unanswered(connection, port)
            found[peer] = min(seconds, found.get(peer, seconds))
        except OSError:
            pass  # it listens, or belongs to another port
        finally:
            connection.detach()  # it is the store's
    return found


def _unanswered(connection: socket.socket, port: int) -> tuple[str, float]:
    """Return the other end, and the seconds since it acknowledged data. Raises OSError for another port."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
        raise OSError
    peer = plain_address(connection.getpeername()[0])
    if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        for level, option, value in PROBES:
            connection.setsockopt(level, option, value)
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_ACKNOWLEDGED + 4)
    return peer, int.from_bytes(info[LAST_ACKNOWLEDGED:], sys.byteorder) / 1000
