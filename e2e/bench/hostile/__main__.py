"""Measures how long the operator takes to replace dead pods of 20 good jobs, with and without hostile jobs beside them.

Starts a real API server and an operator, then bench.hostile.measure with the kubeconfig of that server.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.hostile.hosts import BEHAVIORS
from bench.hostile.processes import api_server, operator


def main() -> None:
    """Run as `python -m bench.hostile`. Exits with 1 if a figure is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20, help="good jobs")
    parser.add_argument("--behaviors", nargs="*", default=list(BEHAVIORS), choices=BEHAVIORS, help="one job for each")
    parser.add_argument("--deaths", type=int, default=40, help="deaths in each phase")
    parser.add_argument("--repetitions", type=int, default=5, help="phases of each kind")
    parser.add_argument("--most-ratio", type=float, default=1.5, help="the highest accepted ratio of both p99")
    parser.add_argument("--most-mb", type=float, default=400, help="the highest accepted memory of the operator")
    parser.add_argument("--source", type=Path, help="run the operator of this directory, such as another operator/src")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        api_server(Path(name)) as kubeconfig,
        operator(Path(name), kubeconfig, arguments.source) as process,
    ):
        wanted = {key: getattr(arguments, key) for key in ("jobs", "behaviors", "deaths", "repetitions")}
        command = [sys.executable, "-m", "bench.hostile.measure", str(process.pid), json.dumps(wanted)]
        done = subprocess.run(
            command, check=False, env={**os.environ, "KUBECONFIG": str(kubeconfig)}, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(Path(name, "operator.log").read_text()[-3000:])
    found = json.loads(done.stdout)
    ratio, peak = found["ratio"], found["with"]["peak_mb"]
    print(f"ratio of both p99: {ratio:.2f} (at most {arguments.most_ratio:g})")
    print(f"peak of the operator: {peak:.0f} MB (at most {arguments.most_mb:g})")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if ratio <= arguments.most_ratio and peak <= arguments.most_mb else 1)


if __name__ == "__main__":
    main()
