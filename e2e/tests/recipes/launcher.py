"""Stands in for `deepspeed --no_ssh`, which the training image does not have: it reads the same options and host file.

It starts as many workers as the host file gives this node, with the ranks that their order in the file gives them.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hostfile", required=True)
    parser.add_argument("--no_ssh", action="store_true")
    parser.add_argument("--node_rank", type=int, required=True)
    parser.add_argument("--master_addr", required=True)
    parser.add_argument("--master_port", required=True)
    parser.add_argument("script", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    lines = [line.split() for line in Path(args.hostfile).read_text().splitlines() if line.strip()]
    slots = [int(line[1].removeprefix("slots=")) for line in lines]
    shared = {"MASTER_ADDR": args.master_addr, "MASTER_PORT": args.master_port, "WORLD_SIZE": str(sum(slots))}
    workers = []
    for local in range(slots[args.node_rank]):
        own = {"RANK": str(sum(slots[: args.node_rank]) + local), "LOCAL_RANK": str(local)}
        environment = {**os.environ, **shared, **own}
        workers.append(subprocess.Popen([sys.executable, *args.script], env=environment))
    return max(abs(worker.wait()) for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
