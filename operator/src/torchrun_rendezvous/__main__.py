"""Start the rendezvous host.

Its settings are RDZV_ID, RDZV_PORT, RDZV_HTTP_PORT, RDZV_TOKEN_SHA256 and RDZV_SEEK_SECONDS. For a job that recovers
step by step, RDZV_LIGHTHOUSE_PORT and RDZV_LIGHTHOUSE_GROUPS are set too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from torchrun_rendezvous.interpreter import settle


def main() -> None:
    """Serve until SIGTERM, which ends the process at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    settle(sys.argv[1:])
    serve()


def serve() -> None:
    """Serve. The other modules need Python 3.10, and are imported once this Python is known to be the right one."""
    from torchrun_rendezvous.board import Board  # noqa: PLC0415
    from torchrun_rendezvous.driver import Driver  # noqa: PLC0415
    from torchrun_rendezvous.http import Server  # noqa: PLC0415
    from torchrun_rendezvous.lighthouse import MissingError, open_lighthouse  # noqa: PLC0415
    from torchrun_rendezvous.logs import log  # noqa: PLC0415

    digest = os.environ["RDZV_TOKEN_SHA256"].lower()
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        sys.exit("RDZV_TOKEN_SHA256: 64 hexadecimal digits are needed")
    board = Board(float(os.environ.get("RDZV_SEEK_SECONDS", "2")))
    driver = Driver(os.environ["RDZV_ID"], int(os.environ.get("RDZV_PORT", "29400")), board)
    server = Server(int(os.environ.get("RDZV_HTTP_PORT", "29401")), board, digest)
    log({"event": "started", "id": os.environ["RDZV_ID"], "http": server.server_address[1]})
    driver.start()
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    lighthouse = None
    if port := os.environ.get("RDZV_LIGHTHOUSE_PORT"):
        try:
            lighthouse = open_lighthouse(int(port), int(os.environ["RDZV_LIGHTHOUSE_GROUPS"]))
        except MissingError as error:
            sys.exit(str(error))
        log({"event": "lighthouse-up", "port": int(port)})
    threading.Event().wait()
    del lighthouse  # it serves as long as it lives


if __name__ == "__main__":
    main()
