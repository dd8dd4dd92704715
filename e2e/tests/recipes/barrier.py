"""Waits until all nodes have connected to the first one: a barrier as workflows bring it along."""

import argparse
import socket
import time

_SECONDS = 120.0
_PORT = 24601


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_nodes", type=int, required=True)
    parser.add_argument("--connect", required=True, help="the host of rank 0")
    parser.add_argument("--rank", type=int, required=True)
    args = parser.parse_args()
    if args.rank == 0:
        serve(args.num_nodes - 1)
    else:
        connect(args.connect)
    print(f"barrier={args.rank} nodes={args.num_nodes}", flush=True)


def serve(others: int) -> None:
    """Accept the other nodes, and let them go when the last one is there."""
    with socket.create_server(("", _PORT), backlog=others) as server:
        server.settimeout(_SECONDS)
        there = [server.accept()[0] for _ in range(others)]
        for one in there:
            one.sendall(b"!")
            one.close()


def connect(host: str) -> None:
    """Connect, also if the first node starts later, and wait for the last node."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            with socket.create_connection((host, _PORT), timeout=5) as one:
                one.settimeout(_SECONDS)
                if one.recv(1):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"no barrier at {host}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
