"""containerd's image stores: made once per set of images, then given to every node as hard links.

containerd never changes a file of an unpacked image: containers write to layers of their own. Only its databases
change in place, and those are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from localcluster.files import key_of, remove, write
from localcluster.images import Builder, Image
from localcluster.locks import exclusive, workspace
from localcluster.paths import Layout
from localcluster.shell import contained, run, stream

_KEPT = 4  # stores that stay in the cache
_CONFIGURATION = """version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"""
# Runs with mounts and processes of its own. The layers' archives are dropped once they are unpacked.
_IMPORT = """set -eu
mount -t tmpfs run /run
containerd --config "$1" --log-level warn &
containerd=$!
until ctr version >/dev/null 2>&1; do kill -0 $containerd; sleep 0.1; done
ctr -n k8s.io images import "$2"
ctr -n k8s.io content ls | awk '/containerd.io\\/uncompressed=/ {print $1}' | xargs -r ctr -n k8s.io content rm
ctr -n k8s.io images tag "$3" localhost/swept:1
ctr -n k8s.io images rm --sync localhost/swept:1
kill $containerd
wait $containerd || true
"""


def chain_key(images: Iterable[Image]) -> str:
    """Name of the store that holds exactly these images, put there in this order."""
    return key_of(f"{image.reference}={image.key}" for image in images)


def provide(layout: Layout, images: Sequence[Image], targets: Iterable[Path]) -> None:
    """Give each node, whose containerd does not run, a store with these images."""
    with exclusive(layout.cache / "locks" / "stores", "it makes the nodes' image store"):
        store = _ensure(layout, images)
        for target in targets:
            link_copy(store, target)


def prepare(layout: Layout, images: Sequence[Image]) -> None:
    """Make the store for these images if it is not there."""
    with exclusive(layout.cache / "locks" / "stores", "it makes the nodes' image store"):
        _ensure(layout, images)


def _path(layout: Layout, images: Sequence[Image]) -> Path:
    return layout.cache / "stores" / chain_key(images)


def _ensure(layout: Layout, images: Sequence[Image]) -> Path:
    store = _path(layout, images)
    if store.exists():
        os.utime(store)
        return store
    partial = store.with_name(f".{store.name}")
    remove(partial)
    # The images that change least come first, so that a change of the last one leaves the others' work as it is.
    if len(images) > 1:
        link_copy(_ensure(layout, images[:-1]), partial)
    else:
        partial.mkdir(parents=True)
    with workspace(layout.cache / "work") as work:
        archive = work / "image.tar"
        Builder(layout).export(images[-1], archive)
        configuration = work / "containerd.toml"
        write(configuration, _CONFIGURATION.format(root=partial))
        argv: list[str | Path] = ["sh", "-c", _IMPORT, "import", configuration, archive, images[-1].reference]
        log = layout.cache / "logs" / "import.log"
        stream(f"import {images[-1].reference} into the image store", contained(argv), log)
    partial.rename(store)
    os.utime(store)
    _prune(layout)
    return store


def _prune(layout: Layout) -> None:
    stores = [path for path in (layout.cache / "stores").iterdir() if not path.name.startswith(".")]
    for path in sorted(stores, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        remove(path)


def link_copy(source: Path, target: Path) -> None:
    """Copy a store: its files as hard links where the file system is the same, its databases for real."""
    partial = target.with_name(f".{target.name}.copy")
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    same = source.stat().st_dev == partial.parent.stat().st_dev
    run(["cp", "-a", *(["-l"] if same else []), source, partial])
    for database in databases(partial):
        copy = database.with_name(f".{database.name}")
        shutil.copy2(database, copy)
        copy.replace(database)
    # Every containerd makes up an identity of its own.
    remove(partial / "io.containerd.grpc.v1.introspection")
    partial.rename(target)


def databases(store: Path) -> list[Path]:
    """Files of a store that containerd changes in place."""
    return sorted(store.glob("*/*.db"))
