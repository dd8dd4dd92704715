"""The conditions of a run: the computer, and all versions."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from bench.recovery import pytorchjobs
from support.clusters import ROOT
from support.kubectl import Kubectl


def machine() -> dict[str, Any]:
    """Return the hardware of this computer, and its load before the run."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(kubectl: Kubectl) -> dict[str, str]:
    """Return the versions of the compared systems, and of the software below them."""
    server = re.search(r"Server Version: (\S+)", kubectl.run("version"))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "torchrun-operator": commit.stdout.strip() or importlib.metadata.version("torchrun-operator"),
        "training-operator": pytorchjobs.version(),
        # The image uses the same lock file.
        "torch": importlib.metadata.version("torch"),
        "kubernetes": server[1] if server else "unknown",
        "python": platform.python_version(),
    }
