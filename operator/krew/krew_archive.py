"""Builds the archives of the krew plugin, and its manifest with their checksums.

An archive has the program of this directory, our packages, and the libraries in the versions of uv.lock. Those with
native code are there once for each version of Python. See docs/decisions/0039-the-plugin-brings-its-libraries.md.
"""

import argparse
import gzip
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("torchrun_cli", "torchrun_operator", "torchrun_transfer")
_NOT_NEEDED: Final = ("aiohttp", "kopf", "kubernetes", "prometheus-client", "pydantic-settings")
"""Dependencies of the operator that the command line does without."""
NATIVE: Final = ("markupsafe", "pydantic-core", "pyyaml")
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PROGRAM: Final = "kubectl-torchrun"


class Target(NamedTuple):
    """A platform, as krew and as uv name it."""

    os: str
    arch: str
    uv: str


TARGETS: Final = (
    Target("linux", "amd64", "x86_64-manylinux_2_28"),
    Target("linux", "arm64", "aarch64-manylinux_2_28"),
    Target("darwin", "amd64", "x86_64-apple-darwin"),
    Target("darwin", "arm64", "aarch64-apple-darwin"),
)


def here() -> Target:
    """Return the platform of this computer. Raises StopIteration if there is no plugin for it."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return next(each for each in TARGETS if (each.os, each.arch) == (platform.system().lower(), arch))


def version() -> str:
    """Return the version of the project."""
    found = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def build(uv: str, directory: Path, targets: Sequence[Target], pythons: Sequence[str], url: str) -> Path:
    """Write the archives and the manifest. Return the path of the manifest. Raises CalledProcessError."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = _requirements(uv)
    sums: dict[Target, tuple[str, str]] = {}
    for target in targets:
        name = f"{PROGRAM}-v{version()}-{target.os}-{target.arch}.tar.gz"
        with tempfile.TemporaryDirectory() as scratch:
            _fill(uv, Path(scratch), wanted, target, pythons)
            content = _archive(Path(scratch))
        (directory / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (directory / f"{name}.sha256").write_text(f"{digest}  {name}\n")
        sums[target] = (f"{url.rstrip('/')}/{name}", digest)
    path = directory / "torchrun.yaml"
    path.write_text(yaml.safe_dump(manifest(sums), sort_keys=False, width=120))
    return path


def manifest(sums: Mapping[Target, tuple[str, str]]) -> dict[str, object]:
    """Return the manifest with the URL and the checksum of each archive."""
    found: dict[str, object] = yaml.safe_load((Path(__file__).with_name("torchrun.yaml")).read_text())
    platforms = [
        {
            "selector": {"matchLabels": {"os": target.os, "arch": target.arch}},
            "uri": uri,
            "sha256": digest,
            "bin": PROGRAM,
        }
        for target, (uri, digest) in sums.items()
    ]
    spec = found["spec"]
    assert isinstance(spec, dict)
    return {**found, "spec": {"version": f"v{version()}", **spec, "platforms": platforms}}


def _requirements(uv: str) -> str:
    """Return the libraries in the versions of uv.lock, with their hashes."""
    pruned = [word for name in _NOT_NEEDED for word in ("--prune", name)]
    command = [uv, "export", "--quiet", "--frozen", "--extra", "cli", "--no-default-groups", "--no-emit-project"]
    command += ["--no-header", "--no-annotate", *pruned]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def _fill(uv: str, scratch: Path, wanted: str, target: Target, pythons: Iterable[str]) -> None:
    """Put everything that an archive has into a directory."""
    shutil.copy2(Path(__file__).with_name(PROGRAM), scratch / PROGRAM)
    shutil.copy2(ROOT / "LICENSE", scratch / "LICENSE")
    (scratch / PROGRAM).chmod(0o755)
    common = scratch / "lib" / "any"
    for python in pythons:
        native = scratch / "lib" / f"cpython-{python.replace('.', '')}"
        _install(uv, native, _only(wanted, NATIVE), target, python)
    _install(uv, common, _only(wanted, NATIVE, inverse=True), target, min(pythons, key=_number))
    for package in PACKAGES:
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / "operator" / "src" / package, common / package, ignore=unwanted)
    about = common / f"torchrun_operator-{version()}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchrun-operator\nVersion: {version()}\n")


def _install(uv: str, directory: Path, wanted: str, target: Target, python: str) -> None:
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--target", str(directory), "--python-version", python, "--python-platform", target.uv]
    command += ["--python", sys.executable, "--requirements", "-"]
    subprocess.run(command, input=wanted, text=True, check=True)
    for unwanted in (directory / "bin", directory / ".lock"):
        if unwanted.is_dir():
            shutil.rmtree(unwanted)
        unwanted.unlink(missing_ok=True)


def _only(wanted: str, names: Iterable[str], *, inverse: bool = False) -> str:
    """Return the requirements of these packages, or of all others. Each has several lines: its hashes follow."""
    chosen = frozenset(names)
    each = re.split(r"\n(?=[A-Za-z0-9])", wanted.strip())
    return "\n".join(text for text in each if (text.partition("==")[0].strip() in chosen) is not inverse)


def _number(python: str) -> tuple[int, ...]:
    return tuple(map(int, python.split(".")))


def _archive(directory: Path) -> bytes:
    """Return a compressed archive of a directory. The same files give the same bytes."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(each for each in directory.rglob("*") if each.is_file()):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o755 if path.name == PROGRAM else 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)
    return gzip.compress(buffer.getvalue(), mtime=0)


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--url", required=True, help="where the archives will be: the manifest names it")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    path = build(options.uv, options.directory, TARGETS, PYTHONS, options.url)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
