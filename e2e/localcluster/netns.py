"""Networks: a namespace per machine, joined by a bridge inside the control plane's."""

from __future__ import annotations

from pathlib import Path

from localcluster.shell import run, succeeds

CONTROL_PLANE_ADDRESS = "10.77.0.1"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
POD_RANGE = "10.78.0.0/16"
MOST_NODES = 200  # what the addresses below leave room for
BRIDGE = "machines"
_DIRECTORY = Path("/run/netns")


def node_address(index: int) -> str:
    """Address of a node."""
    return f"10.77.0.{10 + index}"


def pod_range(index: int) -> str:
    """Range of a node's pods."""
    return f"10.78.{index}.0/24"


def path(name: str) -> Path:
    """File that stands for a network namespace."""
    return _DIRECTORY / name


def inode(name: str) -> int | None:
    """Number that /proc/PID/ns/net shows inside a network namespace."""
    try:
        return path(name).stat().st_ino
    except FileNotFoundError:
        return None


def names(prefix: str) -> list[str]:
    """Network namespaces of the machine whose names begin so."""
    return sorted(entry.name for entry in _DIRECTORY.glob(f"{prefix}*")) if _DIRECTORY.exists() else []


def delete(name: str) -> None:
    """Delete a network namespace and all links in it, if it is there."""
    # A run that was killed half way may have left the file without a namespace on it.
    if path(name).exists() and not succeeds(["ip", "netns", "delete", name]):
        path(name).unlink(missing_ok=True)


def create_control_plane(name: str) -> None:
    """Make the control plane's namespace: the bridge, and no way out of it."""
    delete(name)
    run(["ip", "netns", "add", name])
    _batch(
        name,
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {CONTROL_PLANE_ADDRESS}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        # At once "unreachable" instead of silence for whoever looks for the world outside.
        "route add unreachable default",
    )


def create_node(control_plane: str, name: str, index: int) -> None:
    """Make a node's namespace and plug it into the bridge."""
    delete(name)
    port, address, pods = _port(index), node_address(index), pod_range(index)
    # The other end vanishes with the namespace, but not at once.
    if succeeds(["ip", "-n", control_plane, "link", "show", port]):
        run(["ip", "-n", control_plane, "link", "delete", port])
    run(["ip", "netns", "add", name])
    _batch(
        control_plane,
        f"link add {port} type veth peer name eth0 netns {name}",
        f"link set {port} master {BRIDGE}",
        f"link set {port} up",
        f"route replace {pods} via {address}",
    )
    _batch(
        name,
        "link set lo up",
        f"address add {address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {CONTROL_PLANE_ADDRESS}",
    )


def set_link(control_plane: str, index: int, *, up: bool) -> None:
    """Plug a node's cable in or out."""
    if succeeds(["ip", "-n", control_plane, "link", "show", _port(index)]):
        run(["ip", "-n", control_plane, "link", "set", _port(index), "up" if up else "down"])


def link_is_up(control_plane: str, index: int) -> bool:
    """Whether a node's cable is plugged in."""
    return "state UP" in run(["ip", "-n", control_plane, "link", "show", _port(index)])


def _port(index: int) -> str:
    return f"node{index}"


def _batch(name: str, *commands: str) -> None:
    run(["ip", "-n", name, "-batch", "-"], stdin="\n".join(commands) + "\n")
