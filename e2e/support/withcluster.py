"""Runs a command with a cluster that has the operator: `python3 -m support.withcluster COMMAND…`.

It uses the local cluster, or that of KUBECONFIG if E2E_ALLOW_CONTEXT names its context. The command gets KUBECONFIG,
and the programs of the local cluster on PATH if they are built.
"""

import os
import subprocess
import sys

from support import chart
from support.clusters import (
    UnusableError,
    local_cluster,
    local_environment,
    local_programs,
    own_cluster,
    require_allowed_context,
)


def main(command: list[str]) -> int:
    """Return the exit code of the command; 2 if the cluster is unusable."""
    try:
        cluster = own_cluster(os.environ, "E2E") or local_cluster()
        require_allowed_context(cluster, os.environ)
        chart.install(cluster)
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    programs = local_programs()
    path = ":".join([*([str(programs)] if programs else []), os.environ.get("PATH", "")])
    environment = {**local_environment(), "KUBECONFIG": str(cluster.kubectl.kubeconfig), "PATH": path}
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
