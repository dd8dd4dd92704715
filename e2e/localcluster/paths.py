"""The paths of one cluster, and its unique names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

APPLICATION = "torchrun-operator"
CONTROL_PLANE = "control-plane"
PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]


def cluster_id(checkout: Path, state_home: Path) -> str:
    """Short name of the cluster of this checkout below this state directory."""
    return hashlib.sha256(f"{checkout}\n{state_home}".encode()).hexdigest()[:8]


def node_name(index: int) -> str:
    """Name of the node with this index, from 1."""
    return f"node{index}"


def node_index(name: str) -> int | None:
    """Index in a node's name, or None if it is not one."""
    digits = name.removeprefix("node")
    return int(digits) if name.startswith("node") and digits.isdecimal() and not digits.startswith("0") else None


@dataclass(frozen=True)
class Layout:
    """Directories and names of one cluster."""

    checkout: Path
    cache: Path
    state_home: Path

    @classmethod
    def of(cls, environment: Mapping[str, str], checkout: Path = CHECKOUT) -> Layout:
        """Layout from the XDG variables of this environment."""
        home = Path(environment.get("HOME") or "/root")
        cache_home = Path(environment.get("XDG_CACHE_HOME") or home / ".cache").resolve()
        state_home = Path(environment.get("XDG_STATE_HOME") or home / ".local/state").resolve()
        return cls(checkout=checkout, cache=cache_home / APPLICATION, state_home=state_home)

    @property
    def id(self) -> str:
        """Short name that is unique among the clusters of this computer."""
        return cluster_id(self.checkout, self.state_home)

    @property
    def state(self) -> Path:
        """All data of the cluster, which `down` removes."""
        return self.state_home / APPLICATION / self.id

    @property
    def lock(self) -> Path:
        """File that serializes the commands that change the cluster."""
        return Path("/run/lock") / f"{APPLICATION}-{self.id}.lock"

    @property
    def cgroup(self) -> str:
        """Parent of all control groups of the pods of the cluster."""
        return f"/{APPLICATION}-{self.id}"

    @property
    def netns_prefix(self) -> str:
        """Prefix of the names of the network namespaces of the cluster."""
        return f"tro-{self.id}-"

    @property
    def kubeconfig(self) -> Path:
        """Credentials of an administrator, for use from the host."""
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.state / "logs"

    @property
    def volumes(self) -> Path:
        """One directory per PersistentVolume."""
        return self.state / "volumes"

    def machine(self, name: str) -> Path:
        """Data of the control plane or of one node."""
        return self.state / "machines" / name
