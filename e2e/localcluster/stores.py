"""Image stores of containerd, built once per set of images. Every node gets hard links.

containerd never changes a file of an unpacked image: containers write to their own layers. Only its databases change
in place; they are copied. The store for a changed set starts from the most similar store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from localcluster import archives
from localcluster.files import key_of, read_json, remove, write, write_json
from localcluster.images import Builder, Image
from localcluster.locks import exclusive, workspace
from localcluster.paths import Layout
from localcluster.shell import contained, run, stream

_KEPT = 3  # Stores that stay in the cache.
_CONFIGURATION = """version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"""
# Imports standard input into the containerd at the usual socket. Until the new image is unpacked, the one that it
# replaces keeps the layers that both share. Without a name, the collector could take them in between, and the import
# would fail with "content digest ...: not found". This second name has a host: containerd's CRI plugin completes other
# names, does not recognize them when they are removed, and then starts no pods. The layers' archives are of no use
# once they are unpacked; what no image needs any more goes when an image is removed synchronously, so one is made and
# removed.
IMPORT = """set -eu
ctr="ctr --namespace=k8s.io"
held=$($ctr images ls -q | grep '^docker.io/' || true)
for name in $held; do $ctr images tag --force $name localhost/$name >/dev/null; done
$ctr images import -
for name in $held; do $ctr images rm localhost/$name >/dev/null; done
$ctr content ls | awk '/containerd.io\\/uncompressed=/ {print $1}' | xargs -r $ctr content rm >/dev/null
$ctr images tag docker.io/library/pause:1 localhost/sweep:1 >/dev/null
$ctr images rm --sync localhost/sweep:1 >/dev/null
"""
# Prints the unpacked layers of the images of the containerd at the usual socket. Layers that only a container of an
# earlier image uses are left out: they vanish with it, maybe during the next import.
UNPACKED = r"""{
ctr --namespace=k8s.io content ls | sed -n 's/.*gc.ref.snapshot.overlayfs=\(sha256:[0-9a-f]*\).*/image \1/p'
ctr --namespace=k8s.io snapshots ls
} | awk '
$1 == "image" {tops[$2]}
$1 ~ /^sha256:/ {below[$1] = $2}
END {
  for (top in tops) for (layer = top; layer in below; layer = below[layer]) held[layer]
  for (layer in held) print layer
}
'"""
# Runs with mounts and processes of its own: a containerd for just one command. It makes each layer from the directory
# of the image builder, which has the form of the snapshotter too. The label keeps a layer until an image has it.
_WITH_CONTAINERD = """set -eu
mount -t tmpfs run /run
containerd --config "$1" --log-level error >&2 &
containerd=$!
until ctr version >/dev/null 2>&1; do kill -0 $containerd; sleep 0.05; done
ctr="ctr --namespace=k8s.io"
while read -r layer below directory; do
  if $ctr snapshots info "$layer" >/dev/null 2>&1; then continue; fi
  if [ "$below" = - ]; then below=; fi
  $ctr snapshots prepare "new-$layer" $below >/dev/null
  files=$($ctr snapshots mounts / "new-$layer" |
    sed -En 's/^mount -t bind ([^ ]+) .*/\\1/p; s/.*upperdir=([^, ]+).*/\\1/p')
  echo "layer $layer" >&2
  cp -a $4 "$directory/." "$files"
  chmod 755 "$files"
  $ctr snapshots commit "$layer" "new-$layer"
  $ctr snapshots label "$layer" containerd.io/gc.root=now >/dev/null
done <"$3/layers"
for archive in "$3"/*.tar; do [ ! -e "$archive" ] || sh -c "$2" <"$archive" >&2; done
while read -r layer _; do $ctr snapshots label "$layer" containerd.io/gc.root= >/dev/null; done <"$3/layers"
kill $containerd
wait $containerd || true
"""


def store_key(images: Iterable[Image]) -> str:
    """Name of the store with exactly these images."""
    return key_of(sorted(f"{image.reference}={image.key}" for image in images))


def nearest(wanted: Mapping[str, str], stores: Mapping[Path, Mapping[str, str]]) -> Path | None:
    """The store to start from: among those without unwanted names, the one with the fewest images to import."""

    def likeness(store: Path) -> tuple[int, int]:
        same = sum(wanted[reference] == key for reference, key in stores[store].items())
        return same, len(stores[store])

    candidates = [store for store, held in stores.items() if held.keys() <= wanted.keys()]
    return max(candidates, key=likeness, default=None)


def provide(layout: Layout, images: Sequence[Image], targets: Iterable[Path]) -> None:
    """Give each node a store with these images. Its containerd must not run."""
    with exclusive(layout.cache / "locks" / "stores", "it builds the image store of the nodes"):
        store = _ensure(layout, images)
        for target in targets:
            link_copy(store / "containerd", target)


def prepare(layout: Layout, images: Sequence[Image]) -> None:
    """Build the store for these images if it does not exist."""
    with exclusive(layout.cache / "locks" / "stores", "it builds the image store of the nodes"):
        _ensure(layout, images)


def _ensure(layout: Layout, images: Sequence[Image]) -> Path:
    store = layout.cache / "stores" / store_key(images)
    if store.exists():
        os.utime(store)
        return store
    wanted = {image.reference: image.key for image in images}
    known = {path.parent: read_json(path) for path in store.parent.glob("[0-9a-f]*/images.json")}
    partial = store.with_name(f".{store.name}")
    remove(partial)
    partial.mkdir(parents=True)
    base = nearest(wanted, known)
    if base:
        link_copy(base / "containerd", partial / "containerd")
    held = known[base] if base else {}
    missing = [image for image in images if held.get(image.reference) != image.key]
    _import(layout, partial / "containerd", missing)
    write_json(partial / "images.json", wanted)
    partial.rename(store)
    os.utime(store)
    _prune(store.parent)
    return store


def _import(layout: Layout, root: Path, images: Sequence[Image]) -> None:
    """Add images to a store.

    Nothing is copied where the store and the storage of the image builder are on one file system: the image of the
    trainer has more than 4 GB, and would be written, hashed and read several times.
    """
    builder = Builder(layout)
    with workspace(layout.cache / "work") as work:
        configuration = work / "containerd.toml"
        write(configuration, _CONFIGURATION.format(root=root))
        lines = []
        for number, image in enumerate(images):
            layers = builder.layers(image)
            chain = archives.chain_ids([layer.diff_id for layer in layers])
            for below, name, layer in zip(["-", *chain], chain, layers, strict=False):
                lines.append(f"{name} {below} {layer.directory}\n")
            builder.describe(image, work / f"{number}.tar")
        write(work / "layers", "".join(lines))
        argv: list[str | Path] = ["sh", "-c", _WITH_CONTAINERD, "import", configuration, IMPORT, work]
        argv.append("-l" if _same_device(layout.cache / "images", root.parent) else "--reflink=auto")
        names = ", ".join(image.reference.rpartition("/")[2] for image in images)
        stream(f"image store: add {names}", contained(argv), layout.cache / "logs" / "import.log")


def _prune(stores: Path) -> None:
    complete = stores.glob("[0-9a-f]*")
    for path in sorted(complete, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        remove(path)


def link_copy(source: Path, target: Path) -> None:
    """Copy the files of containerd: hard links on the same file system, real copies of its databases."""
    partial = target.with_name(f".{target.name}.copy")
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "-a", *(["-l"] if _same_device(source, partial.parent) else []), source, partial])
    for database in databases(partial):
        copy = database.with_name(f".{database.name}")
        shutil.copy2(database, copy)
        copy.replace(database)
    # Every containerd generates its own identity.
    remove(partial / "io.containerd.grpc.v1.introspection")
    partial.rename(target)


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def databases(store: Path) -> list[Path]:
    """Files of a store that containerd changes in place."""
    return sorted(store.glob("*/*.db"))
