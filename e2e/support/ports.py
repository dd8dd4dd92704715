"""Finds ports of this computer for servers that a test or a benchmark starts."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def free_port() -> int:
    """Return a port on which nothing listens.

    It lies below the ports that the kernel gives to clients. Otherwise any connection could take it before the server
    is up, which can need seconds.
    """
    below = int(_RANGE.read_text().split()[0])
    for port in random.sample(range(_LOWEST, below), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"100 ports between {_LOWEST} and {below} are in use")
