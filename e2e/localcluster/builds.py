"""The programs of the cluster, built from Go modules once per version and kept in the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster import golang
from localcluster.files import key_of, remove
from localcluster.locks import exclusive
from localcluster.paths import PACKAGE, Layout
from localcluster.shell import ClusterError, contained, stream

PROGRAMS = ("pause", "kube", "coredns", "helm")
# What only debuggers read takes a sixth of the time of the compiler.
_COMPILER_FLAGS = "all=-dwarf=false"
# Names under which kube acts as a separate program.
KUBE_NAMES = ("kubectl",)


@dataclass(frozen=True)
class Program:
    """A Go program, and what its binary depends on."""

    name: str
    module: Path
    package: str
    ldflags: str

    def key(self, go_version: str) -> str:
        """Name of this version of the binary."""
        sources = sorted([*self.module.glob("*.go"), *self.module.glob("go.*")])
        contents = [part for path in sources for part in (path.name.encode(), path.read_bytes())]
        return key_of([go_version, os.uname().machine, self.package, _COMPILER_FLAGS, self.ldflags, *contents])


def tool_package(go_mod: str) -> str:
    """Package that a go.mod's `tool` directive names; the module itself if there is none."""
    found = re.search(r"^tool (\S+)$", go_mod, re.MULTILINE)
    return found[1] if found else "."


def required_version(go_mod: str, module: str) -> str:
    """Version of a module that a go.mod requires."""
    found = re.search(rf"^(?:require )?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"go.mod does not require {module}")
    return found[1]


def kubernetes_ldflags(version: str) -> str:
    """Linker flags with the version of Kubernetes programs."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def program(name: str, modules: Path = PACKAGE / "modules") -> Program:
    """How to build the program of a module."""
    module = modules / name
    go_mod = (module / "go.mod").read_text()
    ldflags = "-s -w"
    if name == "kube":
        ldflags += " " + kubernetes_ldflags(required_version(go_mod, "k8s.io/kubernetes"))
    return Program(name=name, module=module, package=tool_package(go_mod), ldflags=ldflags)


def provide(layout: Layout, built: Program) -> Path:
    """Path of the binary of a program that the cluster itself does not need, built if necessary."""
    return binary(layout, built, golang.require(layout.cache))


def binary(layout: Layout, built: Program, go_version: str) -> Path:
    """Path of the binary of a program, built if necessary."""
    directory = layout.cache / "programs" / f"{built.name}-{built.key(go_version)}"
    result = directory / built.name
    if result.exists():
        return result
    with exclusive(layout.cache / "locks" / f"program-{built.name}", f"it builds {built.name}"):
        if not result.exists():
            _build(built, result, layout.cache / "logs" / f"build-{built.name}.log")
    return result


def _build(built: Program, result: Path, log: Path) -> None:
    partial = result.parent.with_name(f".{result.parent.name}")
    remove(partial)
    partial.mkdir(parents=True)
    output = str(partial / built.name)
    argv = ["go", "build", "-v", "-trimpath", "-gcflags", _COMPILER_FLAGS, "-ldflags", built.ldflags]
    argv += ["-o", output, built.package]
    env = {**os.environ, "CGO_ENABLED": "0"}
    stream(f"build {built.name}", contained(argv), log, cwd=built.module, env=env)
    remove(result.parent)
    partial.rename(result.parent)


@dataclass(frozen=True)
class Programs:
    """Directory of the built programs."""

    directory: Path

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)


def programs_directory(layout: Layout, keys: Mapping[str, str]) -> Path:
    """Directory of links to these versions of the programs."""
    return layout.cache / "bin" / key_of(f"{name}={key}" for name, key in sorted(keys.items()))


def find(layout: Layout) -> Programs | None:
    """The current versions of the programs; None if one is not built."""
    go_version = golang.version(layout.cache)
    if go_version is None:
        return None
    directory = programs_directory(layout, {name: program(name).key(go_version) for name in PROGRAMS})
    return Programs(directory) if directory.exists() else None


def build(layout: Layout) -> Programs:
    """Build the missing programs."""
    found = find(layout)
    if found:
        return found
    go_version = golang.require(layout.cache)
    built = {name: program(name) for name in PROGRAMS}
    targets = {name: binary(layout, one, go_version) for name, one in built.items()}
    links = {**targets, **dict.fromkeys(KUBE_NAMES, targets["kube"])}
    directory = programs_directory(layout, {name: one.key(go_version) for name, one in built.items()})
    with exclusive(layout.cache / "locks" / "bin", "it links the programs"):
        if not directory.exists():
            partial = directory.with_name(f".{directory.name}")
            remove(partial)
            partial.mkdir(parents=True)
            for name, target in links.items():
                (partial / name).symlink_to(target)
            partial.rename(directory)
    return Programs(directory)
