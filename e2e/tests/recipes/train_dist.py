"""Starts the workers of one node, without torchrun. The rank of a worker is that of the first one, plus its own."""

import argparse
import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offset", type=int, required=True, help="rank of the first worker of this node")
    parser.add_argument("--size", type=int, required=True, help="workers of this node")
    parser.add_argument("--world_size", type=int, required=True, help="workers of all nodes")
    args, rest = parser.parse_known_args()
    script = str(Path(__file__).with_name("train.py"))
    workers = []
    for local in range(args.size):
        rank = {"RANK": str(args.offset + local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(args.world_size)}
        workers.append(subprocess.Popen([sys.executable, script, *rest], env={**os.environ, **rank}))
    return max(abs(worker.wait()) for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
