"""Command line: `python3 -m localcluster --help`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from localcluster import builds, cluster, preflight
from localcluster.controlplane import ControlPlane
from localcluster.down import down
from localcluster.images import FURTHER, PRODUCTS, Builder
from localcluster.locks import exclusive
from localcluster.paths import Layout
from localcluster.shell import ClusterError, say, step


def parser() -> argparse.ArgumentParser:
    """Commands and their arguments."""
    result = argparse.ArgumentParser(
        prog="localcluster", description="A real Kubernetes on this computer, without Docker."
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the missing parts of the cluster, and build what is not built")
    up.add_argument("--nodes", type=_positive, help=f"default: the present number, else {cluster.DEFAULT_NODES}")
    up.add_argument("--bare", action="store_true", help="without the images of the operator and the trainer")
    commands.add_parser("down", help="stop the cluster and remove all its data, but not the cache")
    commands.add_parser("status", help="show what runs; exit code 0 if everything runs")
    commands.add_parser("build", help="build programs and images, and start nothing")
    commands.add_parser("images", help="same as build")
    image = commands.add_parser("image", help="build one image from its sources and load it on the running nodes")
    image.add_argument("name", choices=sorted(PRODUCTS | FURTHER))
    load = commands.add_parser("load", help="load the images of an archive (docker or OCI) on the running nodes")
    load.add_argument("archive", type=Path)
    node = commands.add_parser("node", help="cut the power or network of a node, or restore it")
    node.add_argument("action", choices=["stop", "start", "partition", "heal"])
    node.add_argument("name")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig file for the host")
    commands.add_parser("bin", help="print the directory with kubectl and helm")
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _up(layout: Layout, arguments: argparse.Namespace) -> None:
    with exclusive(layout.lock, "it changes the cluster"), step("up"):
        cluster.up(layout, arguments.nodes, bare=arguments.bare)
    say(f"export KUBECONFIG={layout.kubeconfig}")


def _down(layout: Layout, _: argparse.Namespace) -> None:
    with exclusive(layout.lock, "it changes the cluster"), step("down"):
        down(layout)


def _status(layout: Layout, _: argparse.Namespace) -> int:
    return 0 if cluster.status(layout) else 1


def _build(layout: Layout, _: argparse.Namespace) -> None:
    cluster.build(layout)


def _image(layout: Layout, arguments: argparse.Namespace) -> None:
    with exclusive(layout.lock, "it changes the cluster"):
        _require_up(layout)
        cluster.load_images(layout, [Builder(layout).product(arguments.name)])


def _load(layout: Layout, arguments: argparse.Namespace) -> None:
    with exclusive(layout.lock, "it changes the cluster"):
        _require_up(layout)
        running = [node for node in cluster.nodes(layout) if node.is_on()]
        cluster.load_archive(running, arguments.archive, arguments.archive.name)


def _node(layout: Layout, arguments: argparse.Namespace) -> None:
    with exclusive(layout.lock, "it changes the cluster"):
        node = cluster.find_node(layout, arguments.name)
        actions: dict[str, Callable[[], None]] = {
            "stop": node.stop,
            "start": lambda: cluster.start_node(node),
            "partition": node.partition,
            "heal": node.heal,
        }
        actions[arguments.action]()


def _kubeconfig(layout: Layout, _: argparse.Namespace) -> None:
    if not layout.kubeconfig.exists():
        raise ClusterError("the cluster is down: use `up`")
    print(layout.kubeconfig)


def _bin(layout: Layout, _: argparse.Namespace) -> None:
    programs = builds.find(layout)
    if programs is None:
        raise ClusterError("the cluster's programs are not built: use `build` or `up`")
    print(programs.directory)


def _require_up(layout: Layout) -> None:
    if ControlPlane(layout).machine.first_process() is None:
        raise ClusterError("the cluster is down: use `up`")


_COMMANDS: dict[str, Callable[[Layout, argparse.Namespace], int | None]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "build": _build,
    "images": _build,
    "image": _image,
    "load": _load,
    "node": _node,
    "kubeconfig": _kubeconfig,
    "bin": _bin,
}


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns its exit code."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.command not in {"kubeconfig", "bin"}:
            preflight.require_machine()
        return _COMMANDS[arguments.command](Layout.of(os.environ), arguments) or 0
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `up` continues from here, `down` removes what is there")
        return 130
