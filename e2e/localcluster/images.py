"""Container images: pause, two small Debian bases, and the images of the products from their Dockerfiles."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster import archives, dockerfile
from localcluster.files import key_of, read_json, tree_parts, write
from localcluster.locks import exclusive, workspace
from localcluster.paths import Layout
from localcluster.shell import ClusterError, contained, run, step, stream, succeeds

SUITE = "bookworm"
# For Python wheels: most wheels with compiled code need the C++ library.
BASES: Mapping[str, tuple[str, ...]] = {
    "runtime": ("ca-certificates", "libstdc++6", "python3"),
    "build": ("ca-certificates", "libstdc++6", "python3", "python3-pip", "python3-venv"),
}
_UNWANTED_FILES = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
PRODUCTS = {"trainer": "torchrun-trainer", "operator": "torchrun-operator"}
FURTHER = {"transfer": "torchrun-transfer"}  # Built and loaded on request only.
PAUSE = "docker.io/library/pause:1"
_PAUSE_DOCKERFILE = 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
_KEPT = 3  # Versions of each image that stay in the cache.

# Settings for package indexes: for the commands of the build only, never in the image.
_PASSED = re.compile(
    r"(?i:(https?|ftp|all|no)_proxy)"
    r"|PIP_(CERT|CLIENT_CERT|DEFAULT_TIMEOUT|EXTRA_INDEX_URL|FIND_LINKS|INDEX_URL|NO_INDEX|PROXY|RETRIES|TRUSTED_HOST)"
    r"|UV_(DEFAULT_INDEX|EXTRA_INDEX_URL|FIND_LINKS|HTTP_TIMEOUT|INDEX|INDEX_URL|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS)"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_CERTIFICATES = ("/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Image:
    """One version of an image: its name on nodes, and its name in the image storage of the cache."""

    reference: str
    key: str
    stored: str


def passed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the commands of a build."""
    return {name: value for name, value in sorted(environment.items()) if _PASSED.fullmatch(name) and value}


def build_arguments(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the build arguments of an image: for the trainer, what it has beyond torch, as in `make image`."""
    return {"EXTRAS": environment.get("EXTRAS", "")} if name == "trainer" else {}


def build_volumes(environment: Mapping[str, str]) -> list[str]:
    """Host paths that are mounted read-only into the build at the same path."""
    named = [path for value in environment.values() for path in value.split() if path.startswith("/")]
    paths = dict.fromkeys([*_CERTIFICATES, *named])
    # Paths inside a directory that is already mounted need no mount of their own.
    kept = [path for path in paths if Path(path).exists() and not any(str(up) in paths for up in Path(path).parents)]
    return [f"--volume={path}:{path}:ro" for path in kept]


def apt_options(apt_configuration: str) -> list[str]:
    """Settings of apt for its archives, from `apt-config dump`, for mmdebstrap."""
    wanted = re.findall(r'^(Acquire::\S*(?:[Pp]roxy|CaInfo|CaPath)\S* ".+";)$', apt_configuration, re.MULTILINE)
    return [f"--aptopt={line}" for line in wanted]


def base_key(name: str) -> str:
    """Version of a base image."""
    return key_of([SUITE, os.uname().machine, *BASES[name], *_UNWANTED_FILES])


@dataclass(frozen=True)
class Layer:
    """A layer of a built image: its digest, and the directory with its files in the form of overlayfs."""

    diff_id: str
    directory: Path


class Builder:
    """Builds images into a private storage inside the cache."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._storage = layout.cache / "images"

    def pause(self, program: Path) -> Image:
        """Image of the sandbox of every pod, from the program `pause`."""
        with workspace(self._layout.cache / "work") as work:
            context = work / "context"
            context.mkdir()
            shutil.copy2(program, context / "pause")
            key = key_of([_PAUSE_DOCKERFILE, *tree_parts(context)])
            image = Image(PAUSE, key, self._stored("pause", key))
            if not self._done(image.stored).exists():
                write(work / "Dockerfile", _PAUSE_DOCKERFILE)
                self._build("pause", image.stored, work, [])
        return image

    def product(self, name: str) -> Image:
        """Image of one of PRODUCTS or FURTHER from the current sources, built if necessary."""
        text = (self._layout.checkout / name / "Dockerfile").read_text()
        with workspace(self._layout.cache / "work") as work:
            context = work / "context"
            dockerfile.stage(self._layout.checkout, dockerfile.sources(text), context)
            arguments = build_arguments(name, os.environ)
            key = key_of([text, str(arguments), base_key("runtime"), base_key("build"), *tree_parts(context)])
            image = Image(f"docker.io/library/{(PRODUCTS | FURTHER)[name]}:dev", key, self._stored(name, key))
            if not self._done(image.stored).exists():
                bases = {"BASE_IMAGE": self._base("runtime"), "BUILD_IMAGE": self._base("build")}
                options = [f"--build-arg={key}={value}" for key, value in {**bases, **arguments}.items()]
                write(work / "Dockerfile", text)
                self._build(name, image.stored, work, options)
        return image

    def export(self, image: Image, unpacked: Collection[str], archive: Path) -> None:
        """Write an image for a containerd that has already unpacked these chains of layers. `archive` may be a pipe."""
        with workspace(self._layout.cache / "work") as work, step(f"export {image.reference}"):
            buildah = contained(["buildah", *self._storage_options(work)])
            inspect = [*buildah, "inspect", "--type=image", image.stored]
            diff_ids: list[str] = json.loads(run(inspect))["OCIv1"]["rootfs"]["diff_ids"]
            push = [*buildah, "push", "--quiet", image.stored, f"docker-archive:/dev/stdout:{image.reference}"]
            env = {**os.environ, "TMPDIR": str(work)}
            with subprocess.Popen(push, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
                assert process.stdout is not None
                archives.repack(process.stdout, image.reference, archives.lacking(diff_ids, unpacked), archive)
                _, said = process.communicate()
            if process.returncode:
                raise ClusterError(f"{image.reference} cannot be exported: {said.decode(errors='replace').strip()}")

    def layers(self, image: Image) -> list[Layer]:
        """The layers of a built image, the lowest first."""
        known = {one["id"]: one for one in read_json(self._storage / "storage/overlay-layers/layers.json")}
        found, at = [], str(self._record(image)["layer"])
        while at:
            found.append(Layer(known[at]["diff-digest"], self._storage / "storage/overlay" / at / "diff"))
            at = known[at].get("parent", "")
        return found[::-1]

    def describe(self, image: Image, archive: Path) -> None:
        """Write an image without its layers, for a containerd that has unpacked all of them."""
        record = self._record(image)
        directory = self._storage / "storage/overlay-images" / str(record["id"])
        # Large data have names in base64 there. The configuration has the name of its digest, as the image has.
        config = directory / ("=" + base64.b64encode(f"sha256:{record['id']}".encode()).decode())
        sizes = {one["digest"]: one["size"] for one in read_json(directory / "manifest")["layers"]}
        archives.describe(config.read_bytes(), sizes, image.reference, archive)

    def _record(self, image: Image) -> dict[str, Any]:
        images: list[dict[str, Any]] = read_json(self._storage / "storage/overlay-images/images.json")
        return next(one for one in images if image.stored in one.get("names", ()))

    @staticmethod
    def _stored(name: str, key: str) -> str:
        return f"localhost/{name}:{key}"

    def _done(self, stored: str) -> Path:
        """File that marks an image as complete: a query of the storage would take longer."""
        return self._storage / "done" / stored.replace("/", "_")

    def _base(self, name: str) -> str:
        stored = self._stored(f"base-{name}", base_key(name))
        if self._done(stored).exists():
            return stored
        with workspace(self._layout.cache / "work") as work:
            context = work / "context"
            context.mkdir()
            options = [f"--dpkgopt=path-exclude={path}" for path in _UNWANTED_FILES]
            options += apt_options(run(["apt-config", "dump"]))
            options += ["--mode=root", "--variant=essential", f"--include={','.join(BASES[name])}"]
            log = self._layout.cache / "logs" / f"base-{name}.log"
            stream(
                f"install Debian {SUITE} ({name})",
                contained(["mmdebstrap", *options, SUITE, context / "base.tar"]),
                log,
            )
            write(work / "Dockerfile", "FROM scratch\nADD base.tar /\n")
            self._build(f"base-{name}", stored, work, [])
        return stored

    def _build(self, name: str, stored: str, work: Path, options: list[str]) -> None:
        environment = passed_environment(os.environ)
        argv = ["build", "--isolation=chroot", "--network=host", "--layers", "--pull=never", "--format=docker"]
        argv += [*options, *build_volumes(environment), f"--tag={stored}", f"--file={work / 'Dockerfile'}"]
        with exclusive(self._layout.cache / "locks" / f"image-{name}", f"it builds the image {name}"):
            if not self._done(stored).exists():
                self._buildah(f"build image {name}", work, [*argv, str(work / "context")])
                write(self._done(stored), "")
                self._prune(name, work)

    def _prune(self, name: str, work: Path) -> None:
        done = sorted(
            self._done(self._stored(name, "*")).parent.glob(f"localhost_{name}:*"),
            key=lambda path: path.stat().st_mtime,
        )
        for path in done[:-_KEPT]:
            path.unlink()
            stored = path.name.replace("_", "/", 1)
            succeeds(contained(["buildah", *self._storage_options(work), "rmi", stored]))

    def _storage_options(self, work: Path) -> list[str]:
        # Some kernels default to this feature of overlayfs, with which files of a layer need those below them.
        plain = "--storage-opt=overlay.mountopt=metacopy=off"
        return [f"--root={self._storage / 'storage'}", f"--runroot={work / 'run'}", "--storage-driver=overlay", plain]

    def _buildah(self, title: str, work: Path, argv: list[str]) -> None:
        # The commands of the build see variables in this file. Unlike those of --env, they do not stay in the image.
        environment = [f"{name}={value}" for name, value in passed_environment(os.environ).items()]
        write(work / "containers.conf", f"[containers]\nenv = {json.dumps(environment)}\n")
        env = {**os.environ, "CONTAINERS_CONF": str(work / "containers.conf"), "TMPDIR": str(work)}
        log = self._layout.cache / "logs" / f"{title.replace(' ', '-').replace('/', '_')}.log"
        stream(title, contained(["buildah", *self._storage_options(work), *argv]), log, env=env)
