"""Networks: a namespace per machine, connected by a bridge in that of the control plane."""

from __future__ import annotations

from pathlib import Path

from localcluster.shell import run, succeeds

CONTROL_PLANE_ADDRESS = "10.77.0.1"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
POD_RANGE = "10.78.0.0/16"
MOST_NODES = 200  # Limited by the addresses below.
BRIDGE = "machines"
_DIRECTORY = Path("/run/netns")


def node_address(index: int) -> str:
    """Address of a node."""
    return f"10.77.0.{10 + index}"


def pod_range(index: int) -> str:
    """Address range of the pods of a node."""
    return f"10.78.{index}.0/24"


def path(name: str) -> Path:
    """File that stands for a network namespace."""
    return _DIRECTORY / name


def inode(name: str) -> int | None:
    """Inode that /proc/PID/ns/net shows inside a network namespace."""
    try:
        return path(name).stat().st_ino
    except FileNotFoundError:
        return None


def names(prefix: str) -> list[str]:
    """Network namespaces of this computer with this prefix."""
    return sorted(entry.name for entry in _DIRECTORY.glob(f"{prefix}*")) if _DIRECTORY.exists() else []


def delete(name: str) -> None:
    """Delete a network namespace and all its links, if it exists."""
    # A killed run may have left the file without a namespace.
    if path(name).exists() and not succeeds(["ip", "netns", "delete", name]):
        path(name).unlink(missing_ok=True)


def create_control_plane(name: str) -> None:
    """Create the namespace of the control plane: a bridge without a route to the outside."""
    delete(name)
    run(["ip", "netns", "add", name])
    _batch(
        name,
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {CONTROL_PLANE_ADDRESS}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        # Connections to the outside fail at once with "unreachable" instead of waiting.
        "route add unreachable default",
    )


def create_node(control_plane: str, name: str, index: int) -> None:
    """Create the namespace of a node and connect it to the bridge."""
    delete(name)
    port, address, pods = _port(index), node_address(index), pod_range(index)
    # The other end disappears with the namespace, but not at once.
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
    """Connect or disconnect the cable of a node."""
    if succeeds(["ip", "-n", control_plane, "link", "show", _port(index)]):
        run(["ip", "-n", control_plane, "link", "set", _port(index), "up" if up else "down"])


def link_is_up(control_plane: str, index: int) -> bool:
    """Whether the cable of a node is connected."""
    return "state UP" in run(["ip", "-n", control_plane, "link", "show", _port(index)])


def _port(index: int) -> str:
    return f"node{index}"


def _batch(name: str, *commands: str) -> None:
    run(["ip", "-n", name, "-batch", "-"], stdin="\n".join(commands) + "\n")
