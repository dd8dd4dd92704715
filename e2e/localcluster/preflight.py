"""Checks before anything is built or started. Every error names an alternative."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from localcluster.shell import TOOL_PATH, ClusterError, say, stream

GIB = 1024**3
COLD_DISK = 30 * GIB  # Temporarily; half of it remains.
WARM_DISK = 4 * GIB
ALTERNATIVE = "Or use another cluster: set KUBECONFIG to any Kubernetes you have, or create one with kind."

# Why each Debian package is needed: a program on PATH, a file, or a module of this Python.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "buildah": ("buildah",),
    "ca-certificates": ("/etc/ssl/certs/ca-certificates.crt",),
    "conntrack": ("conntrack",),
    "containerd": ("containerd", "ctr"),
    "containernetworking-plugins": ("/usr/lib/cni/ptp", "/usr/lib/cni/host-local"),
    "debian-archive-keyring": ("/usr/share/keyrings/debian-archive-keyring.gpg",),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "mmdebstrap": ("mmdebstrap",),
    "openssl": ("openssl",),
    "python3-venv": ("module ensurepip",),
    "runc": ("runc",),
    "socat": ("socat",),
    "util-linux": ("unshare", "nsenter", "setpriv", "pivot_root"),
}


def present(need: str) -> bool:
    """Whether a program, file or module exists."""
    if need.startswith("module "):
        return importlib.util.find_spec(need.removeprefix("module ")) is not None
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def missing_packages(is_present: Callable[[str], bool] = present) -> list[str]:
    """Debian packages that contain what is missing."""
    return [package for package, needs in PACKAGES.items() if not all(is_present(need) for need in needs)]


def require_machine() -> None:
    """Raise ClusterError if the cluster cannot run here."""
    if platform.system() != "Linux":
        raise ClusterError(f"The local cluster needs Linux; this is {platform.system()}.\n{ALTERNATIVE}")
    if os.geteuid() != 0:
        raise ClusterError(f"The local cluster creates namespaces and mounts: run it as root (sudo -E).\n{ALTERNATIVE}")
    # Some shells of root, and all of sudo, have no sbin on their PATH.
    os.environ["PATH"] = ":".join(dict.fromkeys([*os.environ.get("PATH", "").split(":"), *TOOL_PATH.split(":")]))


def require_packages(log: Path) -> None:
    """Install the missing Debian packages. Raises ClusterError if that is impossible."""
    missing = missing_packages()
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"Missing, and no apt-get to install it: {names} (names of Debian packages).\n{ALTERNATIVE}")
    say(f"installing Debian packages: {names}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    stream("apt-get update", ["apt-get", "update", "-q"], log, env=env)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    stream("apt-get install", install, log, env=env)
    still = missing_packages()
    if still:
        raise ClusterError(f"Installed, but their files are not where expected: {' '.join(still)}.")


def require_disk(directory: Path, needed: int) -> None:
    """Raise ClusterError if the file system that will hold `directory` has less than `needed` bytes free."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ClusterError(
            f"{directory} has {free / GIB:.1f} GiB free; {needed / GIB:.0f} GiB are needed. Free some space, or set "
            f"XDG_CACHE_HOME and XDG_STATE_HOME to directories on one larger disk.\n{ALTERNATIVE}"
        )
