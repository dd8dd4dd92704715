"""The whole cluster: start, status, images."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from localcluster import builds, golang, netns, preflight, processes, stores
from localcluster.api import Api
from localcluster.builds import Programs
from localcluster.controlplane import ControlPlane
from localcluster.down import down
from localcluster.files import read_json, write_json
from localcluster.images import PRODUCTS, Builder, Image
from localcluster.locks import workspace
from localcluster.node import Node
from localcluster.paths import Layout, node_index
from localcluster.shell import ClusterError, run, say, step, together, wait_until

DEFAULT_NODES = 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def nodes(layout: Layout) -> list[Node]:
    """All nodes of the cluster, running or not."""
    indexes = (node_index(path.name) for path in (layout.state / "machines").glob("node*"))
    return [Node(layout, index) for index in sorted(index for index in indexes if index)]


def find_node(layout: Layout, name: str) -> Node:
    """Node with this name."""
    known = {node.name: node for node in nodes(layout)}
    if name not in known:
        raise ClusterError(f"no node {name!r}; nodes: {', '.join(known) or 'none (the cluster is down)'}")
    return known[name]


def build(layout: Layout, *, bare: bool = False) -> tuple[Programs, list[Image]]:
    """Build the missing programs and images, and the image store of the nodes."""
    preflight.require_packages(layout.cache / "logs/apt.log")
    preflight.require_disk(layout.cache, preflight.WARM_DISK if _looks_built(layout) else preflight.COLD_DISK)
    go_version = golang.require(layout.cache)
    builder = Builder(layout)
    images = [builder.pause(builds.binary(layout, builds.program("pause"), go_version))]

    def build_images() -> None:
        images.extend(builder.product(name) for name in PRODUCTS if not bare)
        stores.prepare(layout, images)

    # The images mostly wait for downloads and the disk, the programs for the processors.
    together(lambda: _build_programs(layout), build_images)
    programs = builds.find(layout)
    assert programs is not None
    return programs, images


def _build_programs(layout: Layout) -> None:
    builds.build(layout)


def _looks_built(layout: Layout) -> bool:
    return any((layout.cache / "stores").glob("*"))


def up(layout: Layout, count: int | None = None, *, bare: bool = False) -> None:
    """Run the cluster with that many nodes, and with images of the current sources. The caller holds its lock."""
    programs, images = build(layout, bare=bare)
    _forget_earlier_boot(layout)
    wanted = count or len(nodes(layout)) or DEFAULT_NODES
    if wanted > netns.MOST_NODES:
        raise ClusterError(f"at most {netns.MOST_NODES} nodes")
    preflight.require_disk(layout.state, preflight.WARM_DISK)
    with step("control plane"):
        api = _start_control_plane(layout, programs)
    for node in nodes(layout)[wanted:]:
        say(f"removing {node.name}")
        node.remove(api)
    chosen = [Node(layout, index) for index in range(1, wanted + 1)]
    with step("nodes"):
        _start_nodes(layout, chosen, programs, images)
        names = {node.name for node in chosen}
        wait_until(
            "ready nodes",
            90,
            lambda: names <= {name for name, ready in api.ready_nodes().items() if ready},
            hint=f"see {layout.logs}/NODE.kubelet.log. If one says `too many open files`, stop other clusters, "
            "or raise `sysctl fs.inotify.max_user_instances`",
        )
    load_images(layout, images)


def _forget_earlier_boot(layout: Layout) -> None:
    """Start with an empty cluster after a reboot: etcd does not wait for the disk and may have lost data."""
    boot = _BOOT_ID.read_text().strip()
    remembered = read_json(layout.state / "boot.json")
    if remembered != boot:
        if layout.state.exists():
            say("the computer was rebooted: the cluster starts empty")
            down(layout)
        write_json(layout.state / "boot.json", boot)


def _start_control_plane(layout: Layout, programs: Programs) -> Api:
    control_plane = ControlPlane(layout)
    if control_plane.machine.first_process() is None:
        # The bridge is gone with it, and with the bridge the network of the nodes.
        for node in nodes(layout):
            node.machine.power_off()
    return control_plane.ensure(programs)


def _start_nodes(layout: Layout, chosen: Sequence[Node], programs: Programs, images: Sequence[Image]) -> None:
    fresh = [node for node in chosen if not node.containerd_root.exists()]
    if fresh:
        for node in fresh:
            node.set_images({image.reference: image.key for image in images})
        stores.provide(layout, images, [node.containerd_root for node in fresh])
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda node: node.ensure(programs), chosen))


def start_node(node: Node) -> None:
    """Start a stopped node."""
    programs = builds.find(node.layout)
    if programs is None:
        raise ClusterError("the programs of the cluster changed or were removed from the cache: use `up`")
    node.ensure(programs)


def load_images(layout: Layout, images: Sequence[Image]) -> None:
    """Load images on the running nodes that have no or another version of them."""
    for image in images:
        behind = [node for node in nodes(layout) if node.is_on() and node.images().get(image.reference) != image.key]
        if not behind:
            continue
        with workspace(layout.cache / "work") as work:
            archive = work / "image.tar"
            unpacked = [set(run(node.machine.command(["sh", "-c", stores.UNPACKED])).split()) for node in behind]
            Builder(layout).export(image, set.intersection(*unpacked), archive)
            load_archive(behind, archive, image.reference)
        for node in behind:
            node.set_images({**node.images(), image.reference: image.key})


def load_archive(targets: Sequence[Node], archive: Path, name: str) -> None:
    """Import an image archive on all nodes in parallel."""

    def load(node: Node) -> None:
        with archive.open("rb") as content:
            argv = node.machine.command(["sh", "-c", stores.IMPORT])
            done = subprocess.run(argv, stdin=content, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{node.name} cannot import {archive}: {done.stderr.strip()[-1000:]}")

    with step(f"{name} to {', '.join(node.name for node in targets)}"), ThreadPoolExecutor() as pool:
        list(pool.map(load, targets))


def status(layout: Layout) -> bool:
    """Print what runs. Returns whether everything runs."""
    control_plane = ControlPlane(layout)
    print(f"cluster {layout.id}, state {layout.state}")
    if not layout.state.exists():
        print("down")
        return False
    api = control_plane.api()
    answers = api is not None and api.answers("/readyz")
    ready = api.ready_nodes() if api and answers else {}
    entrance = processes.load(layout.state / "entrance.json")
    healthy = answers and entrance is not None and processes.alive(entrance.identity)
    print(f"api server   {'ready' if answers else 'does not answer'} at https://127.0.0.1:{control_plane.port()}")
    for machine in (control_plane.machine, *(node.machine for node in nodes(layout))):
        services = machine.services()
        ended = [name for name, runs in services.items() if not runs]
        power = "on" if machine.first_process() else "off"
        index = node_index(machine.name)
        notes = [f"{len(services) - len(ended)} services", *(f"{name} ended" for name in ended)]
        good = power == "on" and not ended
        if index is not None:
            good = good and ready.get(machine.name, False)
            reachable = Node(layout, index).is_reachable()
            notes += ["Ready" if ready.get(machine.name) else "not Ready", *([] if reachable else ["partitioned"])]
        print(f"{machine.name:12} {power:4} {', '.join(notes if power == 'on' else notes[-1:])}")
        healthy = healthy and good
    print(f"kubeconfig   {layout.kubeconfig}")
    return healthy
