"""Plays the role that the arguments name. Each role imports its own modules only."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Play a role. Returns in the prestart hook, and in an agent or worker that has ended."""
    if arguments[:1] == ["--first"]:
        from torchrun_launcher import first  # noqa: PLC0415

        first.run(arguments[1:])
    elif arguments[:1] == ["--node"]:
        from torchrun_launcher import node  # noqa: PLC0415

        node.run(arguments[1:])
    elif arguments[:1] == ["--start"]:
        from torchrun_launcher import prestart  # noqa: PLC0415

        prestart.run(arguments[1])
    elif arguments[:1] == ["--serve"]:
        from torchrun_launcher import server  # noqa: PLC0415

        server.run(arguments[1], int(arguments[2]))
    else:
        from torchrun_launcher import shim  # noqa: PLC0415

        shim.Shim().run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
